//! Where everything goes: [`draw`] turns a [`Topology`] into a [`Drawing`]. Boxes stand in four columns, those of one VM
//! in one band; lines join neighbouring columns only and so cross no box.

use super::model::{Interface, Label, Speed, Topology, Vdev, Vm};

/// The columns' headings, from left to right.
pub(super) const COLUMNS: [&str; 4] = ["functions", "interfaces", "devices", "VMs"];
/// Quarters of a pixel that a character is wide: fonts of one width have 0.6 of their height, which is 12.
const CHARACTER: u32 = 29;
const LINE: u32 = 18;
const MARGIN: u32 = 10;
const GAP: u32 = 14;
/// Between columns, where the lines are.
const CHANNEL: u32 = 60;
/// Characters of a line of text, at most.
const LONGEST: usize = 48;

/// Boxes and lines, in pixels.
#[derive(Clone, Debug, Default)]
pub(super) struct Drawing {
    pub(super) size: [u32; 2],
    pub(super) about: Vec<(u32, String)>,
    /// The left edge of each column.
    pub(super) columns: [u32; 4],
    pub(super) headings: u32,
    pub(super) boxes: Vec<Placed>,
    pub(super) lines: Vec<Line>,
    /// What the colours of rows mean: where it stands.
    pub(super) legend: u32,
}

/// A box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) column: usize,
    pub(super) at: [u32; 2],
    pub(super) size: [u32; 2],
    pub(super) rows: Vec<Row>,
}

/// A line of a box's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) text: String,
    /// The middle of the row.
    pub(super) y: u32,
    pub(super) speed: Option<Speed>,
}

/// From the right edge of one box to the left edge of another: their numbers among [`Drawing::boxes`], and both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) joins: [usize; 2],
    pub(super) ends: [[u32; 2]; 2],
}

/// Draws it.
pub(super) fn draw(topology: &Topology) -> Drawing {
    let mut drawing = Drawing::default();
    let mut y = MARGIN;
    for line in &topology.about {
        drawing.about.push((y + LINE / 2, clip(line, 2 * LONGEST)));
        y += LINE;
    }
    y += GAP;
    drawing.headings = y + LINE / 2;
    y += LINE + GAP / 2;
    let top = y;
    let mut sources = Vec::new();
    for vm in &topology.vms {
        y = drawing.band(vm, y, &mut sources) + GAP;
    }
    y = y.max(drawing.functions(&topology.functions, &sources, top) + GAP);
    drawing.legend = y + LINE / 2;
    drawing.spread();
    let [width, _] = drawing.size;
    drawing.size = [width, y + LINE + MARGIN];
    drawing
}

impl Drawing {
    /// A VM and all that it has, from `top` down; gives where that ends. `sources`: boxes of interfaces and their functions.
    fn band(&mut self, vm: &Vm, top: u32, sources: &mut Vec<(usize, usize)>) -> u32 {
        let own = self.put(3, &vm.label, &[]);
        let mut y = top;
        for vdev in &vm.vdevs {
            if y != top {
                y += GAP;
            }
            y = self.device(vdev, own, y, sources);
        }
        let bottom = y.max(top + self.height(own));
        self.center(own, top, bottom);
        bottom
    }

    fn device(
        &mut self,
        vdev: &Vdev,
        vm: usize,
        top: u32,
        sources: &mut Vec<(usize, usize)>,
    ) -> u32 {
        let own = self.put(2, &vdev.label, &vdev.pages);
        self.join(own, vm);
        let mut y = top;
        for Interface { label, function } in &vdev.interfaces {
            if y != top {
                y += GAP;
            }
            let part = self.put(1, label, &[]);
            let bottom = y + self.height(part);
            self.center(part, y, bottom);
            y = bottom;
            self.join(part, own);
            sources.extend(function.map(|function| (part, function)));
        }
        let bottom = y.max(top + self.height(own));
        // A device that is higher than its interfaces has them in its middle.
        let down = (bottom - y) / 2;
        self.boxes.iter_mut().skip(own + 1).for_each(|part| part.move_down(down));
        self.center(own, top, bottom);
        bottom
    }

    /// Functions stand as near to their interfaces as they can, in the order of these.
    fn functions(&mut self, labels: &[Label], sources: &[(usize, usize)], top: u32) -> u32 {
        let mut order: Vec<(Option<u32>, usize)> = Vec::new();
        for function in 0..labels.len() {
            let own = || sources.iter().filter(|(_, of)| *of == function);
            let sum: u32 = own().map(|(part, _)| self.boxes[*part].middle()).sum();
            order.push((sum.checked_div(own().count() as u32), function));
        }
        // Those that nobody uses last.
        order.sort_by_key(|(middle, function)| (middle.is_none(), *middle, *function));
        let mut y = top;
        for (middle, function) in order {
            let own = self.put(0, &labels[function], &[]);
            let height = self.height(own);
            y = y.max(middle.unwrap_or(0).saturating_sub(height / 2));
            self.center(own, y, y + height);
            y += height + GAP;
            for (part, _) in sources.iter().filter(|(_, of)| *of == function) {
                self.join(own, *part);
            }
        }
        y.saturating_sub(GAP)
    }

    /// Gives each column its width and place, and lines their ends.
    fn spread(&mut self) {
        let mut x = MARGIN;
        for (column, heading) in COLUMNS.into_iter().enumerate() {
            let own = || self.boxes.iter().filter(move |found| found.column == column);
            let wanted = own().map(|found| found.size[0]).max().unwrap_or(0);
            let width = wanted.max(width_of(heading));
            self.columns[column] = x;
            for found in self.boxes.iter_mut().filter(|found| found.column == column) {
                (found.at[0], found.size[0]) = (x, width);
            }
            x += width + CHANNEL;
        }
        for line in &mut self.lines {
            let [left, right] = line.joins.map(|joined| &self.boxes[joined]);
            line.ends = [[left.at[0] + left.size[0], left.middle()], [right.at[0], right.middle()]];
        }
        let longest = self.about.iter().map(|(_, text)| width_of(text)).max().unwrap_or(0);
        self.size[0] = (x - CHANNEL).max(longest) + MARGIN;
    }

    /// A box at the top; gives its number.
    fn put(&mut self, column: usize, label: &Label, pages: &[(Speed, String)]) -> usize {
        let texts = label.0.iter().map(|text| (None, text));
        let pages = pages.iter().map(|(speed, text)| (Some(*speed), text));
        let mut y = MARGIN / 2;
        let mut rows = Vec::new();
        for (speed, text) in texts.chain(pages) {
            rows.push(Row { text: clip(text, LONGEST), y: y + LINE / 2, speed });
            y += LINE;
        }
        let width = rows.iter().map(|row| width_of(&row.text)).max().unwrap_or(0);
        let size = [width, y + MARGIN / 2];
        self.boxes.push(Placed { column, at: [0, 0], size, rows });
        self.boxes.len() - 1
    }

    fn join(&mut self, left: usize, right: usize) {
        self.lines.push(Line { joins: [left, right], ends: [[0; 2]; 2] });
    }

    fn height(&self, of: usize) -> u32 {
        self.boxes[of].size[1]
    }

    /// Moves a box that is still at the top into the middle between two heights.
    fn center(&mut self, of: usize, top: u32, bottom: u32) {
        let free = (bottom - top) - self.height(of);
        self.boxes[of].move_down(top + free / 2);
    }
}

impl Placed {
    fn middle(&self) -> u32 {
        self.at[1] + self.size[1] / 2
    }

    fn move_down(&mut self, by: u32) {
        self.at[1] += by;
        self.rows.iter_mut().for_each(|row| row.y += by);
    }
}

/// Pixels that a text needs, with margins. What is not ASCII may be twice as wide.
fn width_of(text: &str) -> u32 {
    let characters: u32 = text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
    (characters * CHARACTER).div_ceil(4) + 2 * MARGIN
}

fn clip(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of so many VMs, devices of each, interfaces of each, and functions, of differing heights.
    fn topology(vms: usize, vdevs: usize, interfaces: usize, functions: usize) -> Topology {
        let label = |lines: usize| Label(vec!["text".into(); lines % 4 + 1]);
        let vm = |vm: usize| Vm {
            label: label(vm * 7),
            vdevs: (0..(vdevs + vm) % 4)
                .map(|vdev| Vdev {
                    label: label(vdev + vm),
                    pages: vec![(Speed::Fast, "page".into()); (vm + vdev) % 3],
                    interfaces: (0..(interfaces + vdev) % 5)
                        .map(|part| Interface {
                            label: label(part),
                            function: (vm + vdev + part).checked_rem(functions),
                        })
                        .collect(),
                })
                .collect(),
        };
        Topology {
            about: vec!["about".into()],
            functions: (0..functions).map(label).collect(),
            vms: (0..vms).map(vm).collect(),
        }
    }

    fn every_size(mut check: impl FnMut(&Topology, &Drawing)) {
        for size in 0..6 * 4 * 5 * 5 {
            let topology = topology(size % 6, size / 6 % 4, size / 24 % 5, size / 120);
            check(&topology, &draw(&topology));
        }
    }

    fn overlap(one: &Placed, other: &Placed) -> bool {
        (0..2).all(|axis| {
            one.at[axis] < other.at[axis] + other.size[axis]
                && other.at[axis] < one.at[axis] + one.size[axis]
        })
    }

    #[test]
    fn boxes_do_not_overlap_and_lie_in_the_picture() {
        every_size(|_, drawing| {
            for (index, one) in drawing.boxes.iter().enumerate() {
                for axis in 0..2 {
                    assert!(one.at[axis] + one.size[axis] <= drawing.size[axis], "{drawing:?}");
                }
                assert!(one.at[1] > drawing.headings);
                assert!(one.at[1] + one.size[1] < drawing.legend, "{drawing:?}");
                for other in &drawing.boxes[index + 1..] {
                    assert!(!overlap(one, other), "{one:?} {other:?}");
                }
            }
        });
    }

    #[test]
    fn every_line_joins_its_two_boxes_in_neighbouring_columns() {
        every_size(|topology, drawing| {
            let vdevs = topology.vms.iter().flat_map(|vm| &vm.vdevs);
            let parts: Vec<_> = vdevs.clone().flat_map(|vdev| &vdev.interfaces).collect();
            let taken = parts.iter().filter(|part| part.function.is_some()).count();
            assert_eq!(drawing.lines.len(), vdevs.count() + parts.len() + taken);
            for Line { joins, ends: [from, to] } in &drawing.lines {
                let [left, right] = joins.map(|joined| &drawing.boxes[joined]);
                assert_eq!(left.column + 1, right.column);
                assert_eq!((from[0], to[0]), (left.at[0] + left.size[0], right.at[0]));
                for (end, joined) in [(from, left), (to, right)] {
                    assert!((joined.at[1]..joined.at[1] + joined.size[1]).contains(&end[1]));
                }
                assert!(from[0] < to[0], "there is room for the line");
            }
        });
    }

    #[test]
    fn text_lies_within_its_box() {
        every_size(|_, drawing| {
            for found in &drawing.boxes {
                for row in &found.rows {
                    assert!(width_of(&row.text) <= found.size[0]);
                    assert!(row.y > found.at[1] && row.y + LINE / 2 < found.at[1] + found.size[1]);
                }
            }
        });
    }

    #[test]
    fn long_text_is_cut_and_wide_text_has_room() {
        let mut topology = topology(1, 0, 0, 0);
        topology.vms[0].label = Label(vec!["y".repeat(100_000), "界".repeat(LONGEST)]);
        let drawing = draw(&topology);
        let rows = &drawing.boxes[0].rows;
        assert!(rows[0].text.chars().count() == LONGEST && rows[0].text.ends_with('…'));
        assert_eq!(drawing.boxes[0].size[0], 2 * LONGEST as u32 * CHARACTER / 4 + 2 * MARGIN);
    }
}
