//! Learning rates over the steps, as transformers' `get_*_schedule_with_warmup`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    Constant,
    /// Down to 0 at the last step.
    Linear,
    /// Half a cosine down to 0 at the last step.
    Cosine,
    /// `base · sqrt(warmup / step)`.
    InverseSqrt,
}

/// A schedule has no state: the rate is a function of the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub kind: ScheduleKind,
    pub base: f64,
    /// Steps over which the rate rises from 0.
    pub warmup: u64,
    pub total: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.base * step as f64 / self.warmup as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        let done = (step - self.warmup) as f64 / rest;
        self.base
            * match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => (1.0 - done).max(0.0),
                ScheduleKind::Cosine => {
                    (0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())).max(0.0)
                }
                ScheduleKind::InverseSqrt => {
                    // transformers' default timescale where there is no warm-up.
                    let timescale = if self.warmup > 0 { self.warmup } else { 10_000 } as f64;
                    let shift = timescale - self.warmup as f64;
                    (timescale / (step as f64 + shift)).sqrt()
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In ten-thousandths.
    fn rates(kind: ScheduleKind) -> Vec<i64> {
        let schedule = Schedule {
            kind,
            base: 1.0,
            warmup: 2,
            total: 6,
        };
        (0..7)
            .map(|step| (schedule.at(step) * 1e4).round() as i64)
            .collect()
    }

    /// Values of transformers 5.23's `get_scheduler` with 2 warm-up and 6 total steps.
    #[test]
    fn rates_are_those_of_transformers() {
        assert_eq!(
            rates(ScheduleKind::Constant),
            [0, 5000, 10000, 10000, 10000, 10000, 10000]
        );
        assert_eq!(
            rates(ScheduleKind::Linear),
            [0, 5000, 10000, 7500, 5000, 2500, 0]
        );
        assert_eq!(
            rates(ScheduleKind::Cosine),
            [0, 5000, 10000, 8536, 5000, 1464, 0]
        );
        assert_eq!(
            rates(ScheduleKind::InverseSqrt),
            [0, 5000, 10000, 8165, 7071, 6325, 5774]
        );
    }
}
