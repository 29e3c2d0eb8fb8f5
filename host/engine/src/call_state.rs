//! What a store holds for its one call: all that the imports of a component work on.

use crate::{
    log::GuestLog,
    memory::Memory,
    wasi::{HasWasi, Wasi},
};

/// What a store holds for its one call.
pub(crate) struct CallState {
    pub(crate) log: GuestLog,
    pub(crate) wasi: Wasi,
    pub(crate) memory: Memory,
}

impl HasWasi for CallState {
    fn wasi_and_log(&mut self) -> (&mut Wasi, &mut GuestLog) {
        (&mut self.wasi, &mut self.log)
    }
}
