//! Whose a weight is: its optimizer state lives with one worker alone, which updates it (ZeRO stage 1,
//! Rajbhandari and others 2020). Whole tensors, as Adafactor's factors need them.

/// The owner of every trained weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares {
    owners: Vec<usize>,
}

impl Shares {
    /// The largest first, each to the worker that has the least so far.
    pub(crate) fn new(sizes: &[usize], world: usize) -> Self {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&index| (std::cmp::Reverse(sizes[index]), index));
        let mut loads = vec![0; world];
        let mut owners = vec![0; sizes.len()];
        for index in order {
            let owner = (0..world)
                .min_by_key(|&rank| (loads[rank], rank))
                .unwrap_or(0);
            loads[owner] += sizes[index];
            owners[index] = owner;
        }
        Self { owners }
    }

    pub(crate) fn owner(&self, index: usize) -> usize {
        self.owners[index]
    }

    /// The weights of a worker, in their order.
    pub(crate) fn of(&self, rank: usize) -> Vec<usize> {
        (0..self.owners.len())
            .filter(|&index| self.owners[index] == rank)
            .collect()
    }
}
