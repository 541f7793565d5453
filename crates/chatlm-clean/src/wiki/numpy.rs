//! numpy's legacy generator (MT19937), for the choices that the reference program draws with it.

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// `numpy.random.RandomState(seed)`.
pub(super) struct RandomState {
    words: [u32; WORDS],
    next: usize,
}

impl RandomState {
    pub(super) fn new(seed: u32) -> Self {
        let mut words = [seed; WORDS];
        for place in 1..WORDS {
            let before = words[place - 1];
            words[place] = 1_812_433_253_u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(place as u32);
        }
        Self { words, next: WORDS }
    }

    fn bits(&mut self) -> u32 {
        if self.next == WORDS {
            for place in 0..WORDS {
                let high = self.words[place] & 0x8000_0000;
                let low = self.words[(place + 1) % WORDS] & 0x7fff_ffff;
                let mixed = high | low;
                let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[place] = self.words[(place + SHIFT) % WORDS] ^ (mixed >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut bits = self.words[self.next];
        self.next += 1;
        bits ^= bits >> 11;
        bits ^= (bits << 7) & 0x9d2c_5680;
        bits ^= (bits << 15) & 0xefc6_0000;
        bits ^ (bits >> 18)
    }

    /// `choice(count)`: masked bits until one is below.
    pub(super) fn choice(&mut self, count: u32) -> u32 {
        let last = count.saturating_sub(1);
        let mask = u32::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        loop {
            let drawn = self.bits() & mask;
            if drawn <= last {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_numpys() {
        // [np.random.RandomState(23333).choice(20) for _ in range(5)], numpy 1.26 and 2.3.
        let mut state = RandomState::new(23333);
        let drawn: Vec<u32> = (0..5).map(|_| state.choice(20)).collect();
        assert_eq!(drawn, [3, 17, 10, 8, 19]);
        assert_eq!(state.choice(1), 0);
    }
}
