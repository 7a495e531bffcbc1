//! What the kernel tells a panic by: the names of its functions and the rules to walk its stack, from its ELF file's
//! symbols and `.debug_frame` (DWARF 5, 6.4.1), in the form of the crate `symbols`.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, LittleEndian, RegisterRule, UnwindContext,
    UnwindSection as _, X86_64,
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};
use symbols::{Function, Row, Rule};

const PAGE: usize = 4096;

/// The table for a kernel with its debugging sections; `None` for a file that is none: whoever loads it says so.
pub(crate) fn table(kernel: &[u8]) -> Option<Vec<u8>> {
    let file = object::File::parse(kernel).ok()?;
    let section = file.section_by_name(".text")?;
    let mut text = section.data().ok()?.to_vec();
    // As it lies in memory.
    text.resize(text.len().next_multiple_of(PAGE), 0);
    let functions: Vec<Function> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0)
        .filter_map(|symbol| {
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
            Some(Function { start: symbol.address(), end: symbol.address() + symbol.size(), name })
        })
        .collect();
    let frames = file.section_by_name(".debug_frame").and_then(|section| section.data().ok());
    let rows = rows(frames.unwrap_or_default()).unwrap_or_default();
    Some(symbols::encode(section.address(), &text, &functions, &rows))
}

fn rows(frames: &[u8]) -> gimli::Result<Vec<Row>> {
    let mut section = DebugFrame::new(frames, LittleEndian);
    section.set_address_size(8);
    let bases = BaseAddresses::default();
    let mut context = UnwindContext::new();
    let mut rows = Vec::new();
    let mut entries = section.entries(&bases);
    while let Some(entry) = entries.next()? {
        let CieOrFde::Fde(fde) = entry else { continue };
        let fde = fde.parse(DebugFrame::cie_from_offset)?;
        // What the linker threw away starts at 0.
        if fde.initial_address() == 0 {
            continue;
        }
        let mut table = fde.rows(&section, &bases, &mut context)?;
        while let Some(row) = table.next_row()? {
            let rule = rule(row.cfa(), row.register(X86_64::RBP));
            rows.push(Row { start: row.start_address(), rule });
        }
        rows.push(Row { start: fde.end_address(), rule: None });
    }
    Ok(rows)
}

/// A row's rule, where it is of the kind that compilers make.
fn rule(frame: &CfaRule<usize>, rbp: RegisterRule<usize>) -> Option<Rule> {
    let CfaRule::RegisterAndOffset { register, offset } = *frame else { return None };
    let from_rbp = match register {
        X86_64::RSP => false,
        X86_64::RBP => true,
        _ => return None,
    };
    let rbp_below = match rbp {
        RegisterRule::Undefined | RegisterRule::SameValue => 0,
        RegisterRule::Offset(offset) => u32::try_from(-offset).ok()?,
        _ => return None,
    };
    Some(Rule { from_rbp, offset: u32::try_from(offset).ok()?, rbp_below })
}

#[cfg(test)]
mod tests {
    use symbols::{Frame, Symbols};

    use super::*;

    #[test]
    fn a_file_that_is_no_program_has_no_table() {
        assert_eq!(table(b"kernel"), None);
    }

    #[test]
    fn a_version_4_frame_table_gives_its_rules() {
        // CIE: version 4, address size 8, code alignment 1, data alignment -8, return address register 16;
        // CFA = RSP + 8, return address at CFA - 8.
        let mut frames: Vec<u8> =
            vec![20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 4, 0, 8, 0, 1, 0x78, 16];
        frames.extend([0x0c, 7, 8, 0x90, 1]);
        frames.resize(24, 0);
        // FDE of [0x1000, 0x1040): after 1 byte CFA + 16, RBP at CFA - 16; after 3 more CFA = RBP + 16.
        frames.extend(28u32.to_le_bytes());
        frames.extend(0u32.to_le_bytes());
        frames.extend(0x1000u64.to_le_bytes());
        frames.extend(0x40u64.to_le_bytes());
        frames.extend([0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6]);
        let rule = |from_rbp, offset, rbp_below| Some(Rule { from_rbp, offset, rbp_below });
        let row = |start, rule| Row { start, rule };
        assert_eq!(
            rows(&frames).unwrap(),
            [
                row(0x1000, rule(false, 8, 0)),
                row(0x1001, rule(false, 16, 16)),
                row(0x1004, rule(true, 16, 16)),
                row(0x1040, None),
            ]
        );
        let table = symbols::encode(0x1000, b"", &[], &rows(&frames).unwrap());
        let frame = Frame { rip: 0x1001, rsp: 0x8000, rbp: 5 };
        let caller = Symbols::parse(&table).unwrap().caller(frame, false, Some).unwrap();
        assert_eq!(caller, Frame { rip: 0x8008, rsp: 0x8010, rbp: 0x8000 });
    }
}
