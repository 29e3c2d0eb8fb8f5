//! Values that many objects have in common, kept once: the workers of a group differ in little but their names.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// Pools are searched for values that nobody has any more when they have grown by this factor.
const GROWTH: usize = 2;

/// A pool of equal values.
pub(super) struct Shared<T: ?Sized> {
    values: HashSet<Arc<T>>,
    swept_above: usize,
}

impl<T: ?Sized + Hash + Eq> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), swept_above: 64 }
    }
}

impl<T: ?Sized + Hash + Eq> Shared<T> {
    /// Replaces a value by the equal one that is known already, or makes it known.
    pub(super) fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.values.get(&**value) {
            *value = Arc::clone(known);
            return;
        }
        self.values.insert(Arc::clone(value));
        if self.values.len() > self.swept_above {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.swept_above = self.swept_above.max(GROWTH * self.values.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_become_one_and_unused_ones_go() {
        let mut pool: Shared<str> = Shared::default();
        let (mut first, mut second): (Arc<str>, Arc<str>) = ("a".into(), "a".into());
        pool.share(&mut first);
        pool.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
        for number in 0..1_000 {
            pool.share(&mut number.to_string().into());
        }
        assert!(pool.values.len() <= 65, "{}", pool.values.len());
        assert!(pool.values.contains("a"));
    }
}
