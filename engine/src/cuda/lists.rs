//! Tables for a decode step: which lists of entries each query row attends to, in pieces, and how the pieces' results
//! come together.

use super::{
    kernels::DecodeItem,
    launcher::{Address, Element, HeadDim},
};

/// Entries of a piece. A list is split every so many entries from its own start, so where it is split does not depend
/// on what else is in the batch.
pub const PIECE: usize = 256;

/// Query rows that one piece serves at most.
const MAX_ROWS: usize = 16;

/// Entries of one KV head, or of one query head.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// `[entries][head_dim]`.
    pub k: Address,
    /// `[entries][head_dim]`.
    pub v: Address,
    /// How many there are.
    pub len: ListLen,
}

/// When a list's length is known.
#[derive(Clone, Copy, Debug)]
pub enum ListLen {
    /// Before the launch: what was kept of a prompt.
    Known(usize),
    /// In the launch, by its place in the lengths on the card: what was generated so far. Such a list is one piece.
    At(usize),
}

/// What the rows of a batch attend to, while it is put together.
#[derive(Clone, Debug)]
pub struct Lists {
    head_dim: HeadDim,
    items: Vec<DecodeItem>,
    parts_of_row: Vec<Vec<i32>>,
    parts: usize,
}

/// The tables of a step, as `ragged_decode` and `merge` read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// One block of `ragged_decode` each.
    pub items: Vec<DecodeItem>,
    /// The parts of row 0, of row 1, and so on, each row's in the order of its lists.
    pub parts: Vec<i32>,
    /// Where each row's parts start; one more than there are rows.
    pub first: Vec<i32>,
    /// Partial results to make room for.
    pub part_count: usize,
}

impl Lists {
    /// No row attends to anything yet.
    #[must_use]
    pub fn new(rows: usize, head_dim: HeadDim) -> Self {
        Self { head_dim, items: Vec::new(), parts_of_row: vec![Vec::new(); rows], parts: 0 }
    }

    /// Lets query rows attend to a list. It is read once for every 16 of them.
    pub fn attend(&mut self, rows: std::ops::Range<usize>, list: List) {
        let row_bytes = self.head_dim.get() * Element::BYTES;
        for row in rows.clone().step_by(MAX_ROWS) {
            let count = MAX_ROWS.min(rows.end - row);
            match list.len {
                ListLen::At(place) => self.push(row, count, [list.k, list.v], 0, place as i32),
                ListLen::Known(len) => {
                    for start in (0..len).step_by(PIECE) {
                        let [k, v] = [list.k, list.v].map(|address| address.at(start, row_bytes));
                        self.push(row, count, [k, v], PIECE.min(len - start) as i32, -1);
                    }
                }
            }
        }
    }

    fn push(&mut self, row: usize, count: usize, [k, v]: [Address; 2], len: i32, len_from: i32) {
        let part = self.parts as i32;
        let (q_row, q_count) = (row as i32, count as i32);
        self.items.push(DecodeItem { k, v, len, len_from, q_row, q_count, part, reserved: 0 });
        for (part, parts) in (part..).zip(&mut self.parts_of_row[row..row + count]) {
            parts.push(part);
        }
        self.parts += count;
    }

    /// The tables.
    #[must_use]
    pub fn tables(self) -> Tables {
        let mut first = vec![0];
        first.extend(self.parts_of_row.iter().scan(0, |end, parts| {
            *end += parts.len() as i32;
            Some(*end)
        }));
        Tables { items: self.items, parts: self.parts_of_row.concat(), first, part_count: self.parts }
    }
}
