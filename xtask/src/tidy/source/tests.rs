//! Violations planted for each rule on single files.

use super::*;

/// The lines on which `text`, planted as `file`, breaks a rule whose message contains `what`.
fn lines(file: &str, text: &str, what: &str) -> Vec<usize> {
    let violations = check(file, text);
    assert!(violations.iter().all(|violation| violation.file == file));
    violations.iter().filter(|found| found.what.contains(what)).map(|found| found.line).collect()
}

const NONE: [usize; 0] = [];
const ROOM: &str = "kernel/src/platform/planted.rs";

#[test]
fn a_clean_file_breaks_nothing() {
    let text = "//! Head.\n\n#![forbid(unsafe_code)]\n\n/// `unsafe` in words, \"in /* strings\".\nfn f() -> &'static str {\n    \"unsafe {\"\n}\n";
    assert!(check("vmm/src/lib.rs", text).is_empty());
}

#[test]
fn unsafe_outside_of_its_rooms_is_refused() {
    let text = "//! Head.\n// SAFETY: no reason helps here.\nfn f() { unsafe { g() } }\n";
    assert_eq!(lines("vmm/src/planted.rs", text, "outside of the rooms"), [3]);
    assert_eq!(lines(ROOM, text, "outside of the rooms"), NONE);
    assert_eq!(lines("vmm/vcpu/src/vmx/entry.rs", text, "outside"), NONE);
    assert_eq!(lines("vmm/vcpu/src/vmx/exit.rs", text, "outside"), [3]);
    let attribute = "//! Head.\n#[unsafe(no_mangle)]\nfn f() {}\n";
    assert_eq!(lines("vmm/src/planted.rs", attribute, "outside"), [2]);
}

#[test]
fn an_unexplained_unsafe_block_is_refused() {
    let bare =
        "//! Head.\nfn f() {\n    let x = 1;\n    unsafe { g(x) }\n}\nunsafe impl Send for A {}\n";
    assert_eq!(lines(ROOM, bare, "without `// SAFETY:`"), [4, 6]);
    let explained = "//! Head.\nfn f() {\n    // SAFETY: it holds\n    // because of this.\n    let x =\n        unsafe { g(x) };\n}\n// SAFETY: so.\nunsafe impl Send for A {}\n";
    assert_eq!(lines(ROOM, explained, "SAFETY"), NONE);
    let another = "//! Head.\nfn f() {\n    // SAFETY: only the first.\n    unsafe { g() };\n    unsafe { g() };\n}\n";
    assert_eq!(lines(ROOM, another, "SAFETY"), [5]);
    let declared = "//! Head.\nunsafe fn f() {}\nunsafe extern \"C\" {}\n";
    assert_eq!(lines(ROOM, declared, "SAFETY"), NONE);
}

#[test]
fn a_crate_without_a_room_must_forbid_unsafe() {
    assert_eq!(lines("iommu/src/lib.rs", "//! Head.\n", "forbid"), [1]);
    assert_eq!(lines("iommu/src/lib.rs", "//! Head.\n#![forbid(unsafe_code)]\n", "forbid"), NONE);
    assert_eq!(lines("vmm/vcpu/src/lib.rs", "//! Head.\n", "forbid"), NONE);
}

#[test]
fn a_module_without_a_head_is_refused() {
    assert_eq!(lines("vmm/src/planted.rs", "\nuse a::b;\n//! late\n", "no `//!`"), [1]);
    assert_eq!(lines("vmm/src/planted.rs", "", "no `//!`"), [1]);
    assert_eq!(lines("planted.sh", "echo\n", "no `//!`"), NONE);
}

#[test]
fn open_ends_are_refused_in_every_kind_of_file() {
    for word in [["TO", "DO"].concat(), ["FIX", "ME"].concat()] {
        let text = format!("//! Head.\n// {word}: later\n");
        assert_eq!(lines("vmm/src/planted.rs", &text, "an open end"), [2]);
        assert_eq!(lines("docs/planted.md", &text, "an open end"), [2]);
    }
    assert_eq!(lines("docs/planted.md", "todos, METHODOLOGY\n", "an open end"), NONE);
}

#[test]
fn paths_and_package_servers_of_one_machine_are_refused() {
    for folder in ["home", "root", "work"] {
        let path = format!("/{folder}/x");
        assert_eq!(lines("planted.toml", &format!("a = \"{path}\"\n"), "absolute path"), [1]);
        let relative = format!("a = \"tests{path} .{path} {{x}}{path}\"\n");
        assert_eq!(lines("planted.toml", &relative, "absolute path"), NONE);
    }
    for host in [["deb", "debian.org"], ["ftp.de", "debian.org"], ["static", "crates.io"]] {
        assert_eq!(
            lines("planted.sh", &format!("get https://{}\n", host.join(".")), "package server"),
            [1]
        );
    }
    assert_eq!(
        lines("planted.md", "https://m.example/debian doc.rust-lang.org\n", "package server"),
        NONE
    );
}

#[test]
fn banners_are_refused() {
    let rule = "=".repeat(8);
    for text in [
        format!("// {rule}\n"),
        format!("# {rule} part\n"),
        "//".to_owned() + &"/".repeat(6) + "\n",
        format!("/* {rule} */\n"),
    ] {
        assert_eq!(lines("planted.rs", &format!("//! Head.\n{text}"), "a banner"), [2], "{text}");
    }
    assert_eq!(
        lines("planted.sh", "#!/bin/sh\n# one - two\nx=$((a - - - -b))\n", "a banner"),
        NONE
    );
    assert_eq!(lines("docs/planted.md", "## ----\n", "a banner"), NONE);
}

#[test]
fn long_files_are_noticed_but_not_their_tests_or_layouts() {
    let long = "x\n".repeat(501);
    assert_eq!(too_long("vmm/src/planted.rs", &long), Some(501));
    assert_eq!(too_long("vmm/src/planted.rs", &"x\n".repeat(500)), None);
    assert_eq!(too_long("vmm/src/planted.rs", &format!("x\n#[cfg(test)]\n{long}")), None);
    assert_eq!(too_long("vmm/spec/src/planted.rs", &long), None);
    assert_eq!(too_long("vmm/src/planted/tests.rs", &long), None);
}

#[test]
fn what_is_not_rust_is_said_with_its_line() {
    assert_eq!(lines("vmm/src/planted.rs", "//! Head.\nfn f() {\n", "not Rust").len(), 1);
}
