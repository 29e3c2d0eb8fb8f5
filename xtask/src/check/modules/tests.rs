use super::*;

/// What is found in a package of these files.
fn found_in(package: &str, files: &[(&str, &str)]) -> Vec<String> {
    let sources = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    findings(package, &sources).unwrap()
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    found_in("some", files)
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_circle_of_two_is_found_with_files_and_names() {
    let a = ("a.rs", "use crate::b::{B, b};\npub struct A;");
    let root = ("lib.rs", "mod a;\nmod b;\nmod c;");
    let c = ("c.rs", "use crate::{a::A, b::B};");
    let b = "pub struct B;\npub fn b() {}\n";
    for import in [
        "use crate::a::A;",
        "use super::a::A as Other;",
        "fn f() { use crate::a::{A}; }",
        "fn f() { crate::a::A::new(); }",
        "fn f() -> Option<super::a::A> { None }",
        "impl crate::a::A {}",
        "use crate::a;\nfn f() { a::A; }",
    ] {
        let found = found(&[root, a, ("b.rs", &format!("{b}{import}")), c]);
        let whole = if import.starts_with("use crate::a;") { "a.rs (A, a)" } else { "a.rs (A)" };
        assert_eq!(found, [format!("some: circle: a.rs -> b.rs (B, b) -> {whole}")], "{import}");
    }
    assert_eq!(found(&[root, a, ("b.rs", b), c]), NOTHING);
    assert_eq!(found(&[root, a, ("b.rs", "use ::a::A; pub(in crate::a) struct B; pub fn b() {}"), c]), NOTHING);
}

#[test]
fn a_circle_of_three_is_found_and_each_circle_once() {
    let files = [
        ("main.rs", "mod c;\nmod b;\nmod a;\nmod x;\nmod y;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "use crate::a::A; use crate::x::X; pub struct C;"),
        ("x.rs", "use crate::y; pub struct X;"),
        ("y.rs", "use crate::x::*;"),
    ];
    let circles =
        ["some: circle: a.rs -> b.rs (B) -> c.rs (C) -> a.rs (A)", "some: circle: x.rs -> y.rs (y) -> x.rs (*)"];
    assert_eq!(found(&files), circles);
}

#[test]
fn a_reexport_leads_to_what_is_defined() {
    let a = ("a.rs", "use crate::B; pub struct A;");
    let circle = ["some: circle: a.rs -> b.rs (B) -> a.rs (A)"];
    for root in [
        "mod a; mod b; pub use a::A; pub use b::B;",
        "mod a; mod b; pub use crate::a::*; pub use self::b::*;",
        "mod a; mod b; pub use b::A; pub use b::B; use a as other;",
    ] {
        assert_eq!(found(&[("lib.rs", root), a, ("b.rs", "pub use crate::a::A; pub struct B;")]), circle, "{root}");
        assert_eq!(found(&[("lib.rs", root), a, ("b.rs", "pub struct B; pub struct A;")]), NOTHING, "{root}");
    }
    // What a lets pass is not its own.
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B; pub use crate::c::C;"),
        ("b.rs", "use crate::a::C; pub struct B;"),
        ("c.rs", "pub struct C;"),
    ];
    assert_eq!(found(&files), NOTHING);
}

#[test]
fn reexports_in_a_circle_end() {
    let files = [
        ("lib.rs", "mod a; mod b; use a::Lost; use Lost::*; use self::b::*; fn f() { a::Nobody::f(); }"),
        ("a.rs", "pub use crate::b::*; pub use crate::b::Lost;"),
        ("b.rs", "pub use crate::a::*; pub use crate::a::Lost;"),
    ];
    assert_eq!(found(&files).len(), 1);
}

#[test]
fn a_module_and_those_below_it_may_import_each_other() {
    let files = [
        ("lib.rs", "mod a; pub struct Root;"),
        ("a/mod.rs", "mod low; mod lower; use low::Low; use crate::Root; pub struct A; fn f() { lower::f(); }"),
        ("a/low.rs", "mod end; use super::A; use crate::Root; pub struct Low; impl A {} fn f() { end::f(); }"),
        ("a/low/end.rs", "pub fn f(_: super::super::A, _: super::Low, _: super::super::lower::L) {}"),
        ("a/lower.rs", "use super::A; pub fn f() {} pub struct L;"),
    ];
    assert_eq!(found(&files), NOTHING);
    let mut circle = files;
    circle[4].1 = "use super::{A, Low}; pub fn f() {} pub struct L;";
    assert_eq!(found(&circle), ["some: circle: a/low/end.rs -> a/lower.rs (L) -> a/low.rs (Low)"]);
}

#[test]
fn folders_that_import_each_other_through_files_below_them_are_found() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod deep; mod other; pub use self::other::Other;"),
        ("a/deep.rs", "use crate::b::{Low, more}; use crate::b::low;"),
        ("a/other.rs", "pub struct Other;"),
        ("b/mod.rs", "mod low; mod next; mod more { pub fn f() {} } pub use low::Low;"),
        ("b/low.rs", "pub struct Low;"),
        ("b/next.rs", "use crate::a::Other; use super::Low;"),
    ];
    let circle = "some: circle: a/deep.rs -> b/mod.rs (more; 1 more pair of files); b/next.rs -> a/other.rs (Other)";
    assert_eq!(found(&files), [circle]);
}

#[test]
fn what_is_for_tests_is_left_out() {
    let b = "pub struct B;";
    let files = |b: &'static str| {
        [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", b),
            ("b/tests.rs", "use crate::a::A;"),
            ("b/more.rs", "#![cfg(test)] use crate::a::A;"),
        ]
    };
    for only_for_tests in [
        b,
        "pub struct B; #[cfg(test)] mod tests;",
        "pub struct B; mod more;",
        "pub struct B; #[cfg(test)] use crate::a::A;",
        "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }",
        "pub struct B; #[cfg(all(test, unix))] fn f() { crate::a::A; }",
        "pub struct B; impl B { #[cfg(test)] fn f(_: crate::a::A) {} }",
        "pub struct B { #[cfg(test)] a: crate::a::A }",
        "pub struct B; fn f() { #[cfg(test)] let a = crate::a::A; #[cfg(test)] use crate::a::A; }",
    ] {
        assert_eq!(found(&files(only_for_tests)), NOTHING, "{only_for_tests}");
    }
    for for_others_too in [
        "pub struct B; mod tests;",
        "pub struct B; #[cfg(not(test))] use crate::a::A;",
        "pub struct B; #[cfg(any(test, unix))] use crate::a::A;",
        "pub struct B; #[cfg(unix)] mod tests { use crate::a::A; }",
    ] {
        assert_eq!(found(&files(for_others_too)).len(), 1, "{for_others_too}");
    }
}

#[test]
fn a_closed_module_is_imported_by_nobody_else() {
    let files = |memory: &'static str| {
        [
            ("lib.rs", "pub mod dask; mod memory; pub mod text; use dask::Job; pub use dask::pods::Pod;"),
            ("dask/mod.rs", "pub mod pods; pub use crate::text::line; pub struct Job;"),
            ("dask/pods.rs", "use super::Job; use crate::text::line; pub struct Pod;"),
            ("memory.rs", memory),
            ("text.rs", "pub fn line() {}"),
        ]
    };
    assert_eq!(found_in("host/core", &files("use crate::text::line;")), NOTHING);
    let rule = "only lib.rs and dask itself may import from dask: the rest of core serves any handler";
    for (memory, arrow) in [
        ("use crate::dask::{Job, pods::Pod};", "dask/mod.rs (Job)"),
        ("use crate::Pod;", "dask/pods.rs (Pod)"),
        ("fn f() { crate::dask::pods::Pod::new(); }", "dask/pods.rs (Pod)"),
        ("use crate::dask::line;", "dask/mod.rs (line)"),
        ("use super::dask;", "dask/mod.rs (dask)"),
    ] {
        let found = found_in("host/core", &files(memory));
        assert_eq!(found.first(), Some(&format!("host/core: memory.rs -> {arrow}: {rule}")), "{found:?}");
        assert_eq!(found_in("host/api", &files(memory)), NOTHING, "{memory}");
    }
    let found = found_in("host/core", &[("lib.rs", "")]);
    assert!(found.len() == 1 && found[0].starts_with("host/core: there is no module dask"), "{found:?}");
}

#[test]
fn a_file_is_found_where_rust_looks_for_it() {
    let files = [
        ("lib.rs", "mod a; mod r#gen; #[path = \"elsewhere/x.rs\"] mod x; mod inner { pub mod y; }"),
        ("a.rs", "use crate::{r#gen::G, x::low::L, inner::y::Y}; pub struct A;"),
        ("gen.rs", "pub struct G;"),
        ("elsewhere/x.rs", "pub mod low;"),
        ("elsewhere/low.rs", "pub struct L;"),
        ("inner/y.rs", "pub struct Y; fn f() { super::super::a::A; }"),
    ];
    assert_eq!(found(&files), ["some: circle: a.rs -> inner/y.rs (Y) -> a.rs (A)"]);

    let lacking = BTreeMap::from([("lib.rs".to_owned(), "mod a;".to_owned())]);
    assert_eq!(findings("some", &lacking).unwrap_err().to_string(), "there is none of a.rs, a/mod.rs");
    assert!(findings("some", &BTreeMap::new()).is_err());
    let broken = BTreeMap::from([("lib.rs".to_owned(), "mod {".to_owned())]);
    assert_eq!(findings("some", &broken).err().unwrap().to_string(), "parsing lib.rs");
}
