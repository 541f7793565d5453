//! Connected groups: union-find whose root is always the smallest member.

#[derive(Debug)]
pub(crate) struct Groups(Vec<u32>);

impl Groups {
    pub(crate) fn new(len: usize) -> Self {
        Self((0..len as u32).collect())
    }

    /// The smallest member of the group, without shortening paths: for many readers.
    pub(crate) fn smallest(&self, mut member: u32) -> u32 {
        while self.0[member as usize] != member {
            member = self.0[member as usize];
        }
        member
    }

    pub(crate) fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.shorten(a), self.shorten(b));
        self.0[a.max(b) as usize] = a.min(b);
    }

    /// Points every member at its root, so that [`Groups::smallest`] takes one step.
    pub(crate) fn flatten(&mut self) {
        // Parents are smaller, so theirs are flat already.
        for member in 0..self.0.len() {
            self.0[member] = self.0[self.0[member] as usize];
        }
    }

    fn shorten(&mut self, mut member: u32) -> u32 {
        while self.0[member as usize] != member {
            let above = self.0[member as usize];
            self.0[member as usize] = self.0[above as usize];
            member = above;
        }
        member
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_smallest_member() {
        let mut groups = Groups::new(8);
        for (a, b) in [(7, 5), (3, 7), (6, 2), (2, 1)] {
            groups.join(a, b);
        }
        groups.flatten();
        let roots: Vec<u32> = (0..8).map(|i| groups.smallest(i)).collect();
        assert_eq!(roots, [0, 1, 1, 3, 4, 3, 1, 3]);
    }
}
