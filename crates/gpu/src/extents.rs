//! A free list over one range of units: first fit, neighbours joined. Knows nothing of what lies there.

/// The free ranges, ascending, never touching each other.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    free: Vec<Extent>,
    end: u64,
}

/// A range of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub start: u64,
    pub length: u64,
}

impl Extents {
    /// Units in all, free or not.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// The end that a range of `length` units would need: the present one where it fits already.
    pub(crate) fn end_for(&self, length: u64) -> u64 {
        if self.free.iter().any(|f| f.length >= length) {
            return self.end;
        }
        let tail = self.free.last().filter(|f| f.start + f.length == self.end).map_or(0, |f| f.length);
        self.end - tail + length
    }

    /// Adds free units behind the end.
    pub(crate) fn grow(&mut self, end: u64) {
        if end > self.end {
            let added = Extent { start: self.end, length: end - self.end };
            self.end = end;
            self.give(added);
        }
    }

    /// Takes the first range that is long enough. Nothing can always be taken.
    pub(crate) fn take(&mut self, length: u64) -> Option<Extent> {
        if length == 0 {
            return Some(Extent { start: 0, length });
        }
        let at = self.free.iter().position(|f| f.length >= length)?;
        let found = &mut self.free[at];
        let taken = Extent { start: found.start, length };
        found.start += length;
        found.length -= length;
        if found.length == 0 {
            self.free.remove(at);
        }
        Some(taken)
    }

    /// Gives back a range that was taken.
    pub(crate) fn give(&mut self, extent: Extent) {
        if extent.length == 0 {
            return;
        }
        let at = self.free.partition_point(|f| f.start < extent.start);
        self.free.insert(at, extent);
        for left in [at, at.wrapping_sub(1)] {
            let (Some(&a), Some(&b)) = (self.free.get(left), self.free.get(left.wrapping_add(1))) else {
                continue;
            };
            if a.start + a.length == b.start {
                self.free[left].length += b.length;
                self.free.remove(left + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_reused_and_joined() {
        let mut extents = Extents::default();
        assert_eq!(extents.take(1), None);
        assert_eq!(extents.end_for(10), 10);
        extents.grow(10);
        let [a, b, c] = [3, 3, 4].map(|n| extents.take(n).unwrap());
        assert_eq!(extents.take(1), None);
        extents.give(a);
        extents.give(c);
        assert_eq!(extents.end_for(4), 10);
        assert_eq!(extents.end_for(5), 11, "the free tail of 4 counts");
        extents.give(b);
        assert_eq!(extents.take(10), Some(Extent { start: 0, length: 10 }));
        extents.grow(12);
        assert_eq!(extents.take(2), Some(Extent { start: 10, length: 2 }));
    }

    #[test]
    fn nothing_is_a_range_too() {
        let mut extents = Extents::default();
        assert_eq!(extents.end_for(0), 0);
        let nothing = extents.take(0).unwrap();
        extents.give(nothing);
        assert_eq!(extents.take(1), None);
        extents.grow(4);
        let nothing = extents.take(0).unwrap();
        extents.give(nothing);
        assert_eq!(extents.take(4), Some(Extent { start: 0, length: 4 }));
    }
}
