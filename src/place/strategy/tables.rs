//! Cost tables of edges, kept once each: files repeat a few thousand tables over a hundred thousand edges.

use std::collections::BTreeMap;

/// An entry of this much or more is a forbidden pair; the sum of all allowed entries stays far below.
pub(crate) const FORBIDDEN: f64 = 1e15;

/// A dense table, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) data: Box<[f64]>,
}

impl Table {
    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    fn transposed(&self) -> Table {
        let data = (0..self.cols)
            .flat_map(|j| (0..self.rows).map(move |i| (i, j)))
            .map(|(i, j)| self.data[i * self.cols + j])
            .collect();
        Table { rows: self.cols, cols: self.rows, data }
    }
}

/// Rows that were selected from a table, and the number of what they make.
type Selection = (Box<[u16]>, u32);

/// The tables of a problem by number; equal tables have equal numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    list: Vec<Table>,
    turned: Vec<Option<u32>>,
    by_hash: BTreeMap<u64, Vec<u32>>,
    selected: BTreeMap<(u32, u64), Vec<Selection>>,
    sums: BTreeMap<(u32, u32), u32>,
}

impl Tables {
    pub(crate) fn get(&self, id: u32) -> &Table {
        &self.list[id as usize]
    }

    /// The number of a table with this content.
    pub(crate) fn intern(&mut self, rows: usize, cols: usize, data: Vec<f64>) -> u32 {
        let hash = hash_of(cols, &data);
        let list = &self.list;
        let same = |&&id: &&u32| {
            let t = &list[id as usize];
            t.rows == rows && t.cols == cols && *t.data == *data
        };
        let ids = self.by_hash.entry(hash).or_default();
        if let Some(&id) = ids.iter().find(same) {
            return id;
        }
        let id = self.list.len() as u32;
        ids.push(id);
        self.list.push(Table { rows, cols, data: data.into() });
        self.turned.push(None);
        id
    }

    /// The number of the transposed table.
    pub(crate) fn turned(&mut self, id: u32) -> u32 {
        if let Some(other) = self.turned[id as usize] {
            return other;
        }
        let Table { rows, cols, data } = self.list[id as usize].transposed();
        let other = self.intern(rows, cols, data.into());
        self.turned[id as usize] = Some(other);
        self.turned[other as usize] = Some(id);
        other
    }

    /// The table whose row `i` is row `rows[i]` of table `id`.
    pub(crate) fn select_rows(&mut self, id: u32, rows: &[u16]) -> u32 {
        let key = (id, mix(0, rows.iter().map(|&i| u64::from(i))));
        let known = self.selected.get(&key).and_then(|l| l.iter().find(|(r, _)| **r == *rows));
        if let Some(&(_, other)) = known {
            return other;
        }
        let t = self.get(id);
        let data = rows.iter().flat_map(|&i| t.row(usize::from(i)).iter().copied()).collect();
        let cols = t.cols;
        let other = self.intern(rows.len(), cols, data);
        self.selected.entry(key).or_default().push((rows.into(), other));
        other
    }

    /// The sum of two tables of one shape.
    pub(crate) fn sum(&mut self, a: u32, b: u32) -> u32 {
        if let Some(&sum) = self.sums.get(&(a, b)) {
            return sum;
        }
        let (x, y) = (self.get(a), self.get(b));
        let data = x.data.iter().zip(&y.data).map(|(p, q)| (p + q).min(FORBIDDEN)).collect();
        let (rows, cols) = (x.rows, x.cols);
        let sum = self.intern(rows, cols, data);
        self.sums.insert((a, b), sum);
        sum
    }
}

fn hash_of(cols: usize, data: &[f64]) -> u64 {
    mix(cols as u64, data.iter().map(|x| x.to_bits()))
}

/// A fast hash of words; equal hashes are compared in full, so its quality only matters for speed.
pub(crate) fn mix(start: u64, words: impl Iterator<Item = u64>) -> u64 {
    words.fold(start, |h, x| {
        let h = (h.rotate_left(23) ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^ (h >> 29)
    })
}
