//! A table of two functions, and a stack to walk.

use super::*;

const BASE: u64 = 0xffff_ffff_8000_0000;

fn rule(from_rbp: bool, offset: u32, rbp_below: u32) -> Option<Rule> {
    Some(Rule { from_rbp, offset, rbp_below })
}

/// `outer` (0x100) saves RBP and makes it the frame; `inner` (0x200) has 24 bytes of locals.
fn table() -> Vec<u8> {
    let function = |start, end, name: &str| Function {
        start: BASE + start,
        end: BASE + end,
        name: name.into(),
    };
    let row = |start, rule| Row { start: BASE + start, rule };
    encode(
        BASE,
        b"text",
        &[function(0x200, 0x280, "inner"), function(0x100, 0x180, "outer")],
        &[
            row(0x200, rule(false, 8, 0)),
            row(0x204, rule(false, 32, 0)),
            row(0x280, None),
            row(0x100, rule(false, 8, 0)),
            row(0x101, rule(false, 16, 16)),
            row(0x104, rule(true, 16, 16)),
            row(0x180, None),
        ],
    )
}

#[test]
fn an_address_is_named_within_its_function_only() {
    let table = table();
    let symbols = Symbols::parse(&table).unwrap();
    assert_eq!(symbols.name(BASE + 0x100), Some(("outer", 0)));
    assert_eq!(symbols.name(BASE + 0x27f), Some(("inner", 0x7f)));
    for nowhere in [0, BASE, BASE + 0x180, BASE + 0x280, u64::MAX] {
        assert_eq!(symbols.name(nowhere), None);
    }
}

#[test]
fn a_table_knows_its_kernel() {
    let table = table();
    let symbols = Symbols::parse(&table).unwrap();
    assert!(symbols.is_of(b"text") && !symbols.is_of(b"tezt"));
}

#[test]
fn the_stack_is_walked_by_the_rules_and_ends_where_no_rule_is() {
    let table = table();
    let symbols = Symbols::parse(&table).unwrap();
    // inner was called at 0x150 of outer, which was called from nowhere.
    let stack = [0, 0, 0, BASE + 0x150, 7, 8, 0xb0b, 0x99];
    let read = |at: u64| stack.get(((at - 0x1000) / 8) as usize).copied();
    let inner = Frame { rip: BASE + 0x210, rsp: 0x1000, rbp: 0x1030 };
    let outer = symbols.caller(inner, false, read).unwrap();
    assert_eq!(outer, Frame { rip: BASE + 0x150, rsp: 0x1020, rbp: 0x1030 });
    let last = symbols.caller(outer, true, read).unwrap();
    assert_eq!(last, Frame { rip: 0x99, rsp: 0x1040, rbp: 0xb0b });
    assert_eq!(symbols.caller(last, true, read), None);
}

#[test]
fn a_call_that_never_returns_belongs_to_the_function_before() {
    let table = table();
    let symbols = Symbols::parse(&table).unwrap();
    let frame = Frame { rip: BASE + 0x280, rsp: 0x1000, rbp: 0 };
    assert!(symbols.caller(frame, true, Some).is_some());
    assert_eq!(symbols.caller(frame, false, Some), None);
}

#[test]
fn a_frame_that_leads_down_ends_the_walk() {
    let table = table();
    let symbols = Symbols::parse(&table).unwrap();
    let frame = Frame { rip: BASE + 0x110, rsp: 0x1000, rbp: 0x800 };
    assert_eq!(symbols.caller(frame, false, Some), None);
}

#[test]
fn a_table_cut_short_is_none_or_knows_less_and_never_panics() {
    let table = table();
    for length in 0..table.len() {
        if let Some(symbols) = Symbols::parse(&table[..length]) {
            let _ = symbols.name(BASE + 0x110);
            let _ = symbols.caller(Frame { rip: BASE + 0x110, rsp: 0, rbp: 0 }, true, Some);
        }
    }
}
