//! Dynamic loss scaling for f16, as `torch.amp.GradScaler`'s: the loss is multiplied by a large number,
//! so that small gradients are no zeros in f16, and the gradients are divided by it before they are
//! used (Micikevicius et al. 2018, "Mixed Precision Training").

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use chatlm_checkpoint::Piece;
use chatlm_job::{Error, Result};
use chatlm_optim::Source;

/// The constants of `GradScaler`.
const START: f64 = 65_536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const INTERVAL: u64 = 2000;

/// Names in a checkpoint's file.
const SCALE: &str = "scaler.scale";
const TRACKER: &str = "scaler.growth_tracker";

/// What the loss is multiplied by, and what that hangs on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LossScale {
    scale: f64,
    /// Steps since the scale changed or a gradient was not finite.
    good: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            scale: START,
            good: 0,
        }
    }
}

impl LossScale {
    pub(crate) fn scale(&self) -> f64 {
        self.scale
    }

    /// Whether a gradient that is not finite may be the scale's fault: scaled by less than 1 it is the
    /// model's.
    pub(crate) fn may_fall(&self) -> bool {
        self.scale >= 1.0
    }

    /// A step whose gradients were finite and used.
    pub(crate) fn succeeded(&mut self) {
        self.good += 1;
        if self.good == INTERVAL {
            self.good = 0;
            let larger = self.scale * GROWTH;
            // In f32, where PyTorch keeps it.
            if (larger as f32).is_finite() {
                self.scale = larger;
            }
        }
    }

    /// A step that was left out because a gradient was not finite.
    pub(crate) fn overflowed(&mut self) {
        self.scale *= BACKOFF;
        self.good = 0;
    }

    pub(crate) fn state(&self) -> Result<BTreeMap<String, Piece<'static>>> {
        let scale = Tensor::new(&[self.scale], &Device::Cpu).map_err(Error::internal)?;
        let good = Tensor::new(&[self.good as i64], &Device::Cpu).map_err(Error::internal)?;
        Ok(BTreeMap::from([
            (SCALE.to_owned(), Piece::Tensor(scale)),
            (TRACKER.to_owned(), Piece::Tensor(good)),
        ]))
    }

    /// What a checkpoint holds; nothing where it was written in another precision.
    pub(crate) fn read(source: &mut impl Source) -> Result<Option<Self>> {
        if source.look(SCALE).is_none() || source.look(TRACKER).is_none() {
            return Ok(None);
        }
        let (scale, good) = (source.read(SCALE)?, source.read(TRACKER)?);
        Ok(Self::of(&scale, &good))
    }

    fn of(scale: &Tensor, good: &Tensor) -> Option<Self> {
        let scale = *scale.to_vec1::<f64>().ok()?.first()?;
        let good = *good.to_vec1::<i64>().ok()?.first()?;
        Some(Self {
            scale: Some(scale).filter(|scale| scale.is_finite() && *scale > 0.0)?,
            good: u64::try_from(good).ok()?,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]
mod tests {
    use super::*;

    /// The documented rule: `scale *= backoff_factor` where infs or NaNs were found, `scale *=
    /// growth_factor` after `growth_interval` steps in a row without any; both begin the count anew.
    #[test]
    fn it_moves_as_pytorchs_does() {
        let mut scale = LossScale::default();
        assert_eq!(scale.scale(), 65_536.0);
        for _ in 0..1999 {
            scale.succeeded();
        }
        assert_eq!(scale.scale(), 65_536.0);
        scale.succeeded();
        assert_eq!((scale.scale(), scale.good), (131_072.0, 0));
        // An overflow one step before the next growth puts it off by a whole interval.
        for _ in 0..1999 {
            scale.succeeded();
        }
        scale.overflowed();
        assert_eq!((scale.scale(), scale.good), (65_536.0, 0));
        scale.overflowed();
        assert_eq!(scale.scale(), 32_768.0);
        for _ in 0..1999 {
            scale.succeeded();
        }
        assert_eq!(scale.scale(), 32_768.0);
        scale.succeeded();
        assert_eq!(scale.scale(), 65_536.0);
    }

    #[test]
    fn it_grows_no_further_than_f32_and_says_when_it_is_not_to_blame() {
        let mut scale = LossScale {
            scale: 2f64.powi(127),
            good: INTERVAL - 1,
        };
        scale.succeeded();
        assert_eq!((scale.scale(), scale.good), (2f64.powi(127), 0));
        let mut scale = LossScale::default();
        for _ in 0..16 {
            assert!(scale.may_fall());
            scale.overflowed();
        }
        assert_eq!(scale.scale(), 1.0);
        assert!(scale.may_fall());
        scale.overflowed();
        assert!(!scale.may_fall());
    }

    #[test]
    fn its_state_is_read_back() {
        let scale = LossScale {
            scale: 1024.0,
            good: 17,
        };
        let tensors = |state: BTreeMap<String, Piece<'static>>| -> BTreeMap<String, Tensor> {
            let tensor = |piece| match piece {
                Piece::Tensor(tensor) => tensor,
                Piece::Values { values, .. } => Tensor::new(values, &Device::Cpu).unwrap(),
                Piece::Bytes { values, .. } => Tensor::new(values, &Device::Cpu).unwrap(),
            };
            let parts = state.into_iter();
            parts.map(|(name, piece)| (name, tensor(piece))).collect()
        };
        let state = tensors(scale.state().unwrap());
        assert_eq!(LossScale::read(&mut &state).unwrap(), Some(scale));
        assert_eq!(LossScale::read(&mut &BTreeMap::new()).unwrap(), None);
    }
}
