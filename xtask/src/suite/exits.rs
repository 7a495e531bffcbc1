//! No exit costs more than was recorded: the deterministic beds count instructions, so a slower path shows at once.

use crate::bed::BedKind;
use crate::bench::exits;
use crate::step::Step;
use crate::suite::on_bed;

pub(super) fn steps() -> Vec<Step> {
    BedKind::ALL
        .map(|bed| {
            on_bed(bed, "exits cost no more than recorded", move |context| {
                exits::check(context, bed)
            })
        })
        .into()
}
