//! Losses over pairs of answers, one pair at a time in f64, with their derivatives by the two
//! log-probabilities; the model's gradients follow by the chain rule.
//!
//! Sigmoid: Rafailov et al. 2023 (DPO), smoothed as Mitchell 2023 (cDPO). Ipo: Azar et al. 2023. Simpo:
//! Meng et al. 2024. Orpo: Hong et al. 2024. Formulas and averaging as TRL's DPO, CPO and ORPO trainers
//! (docs/preferences.md); golden numbers in `test/golden/preference`.

use chatlm_job::{Error, Result};
use chatlm_t5::{Model, Pass, Precision, Tape};
use serde::{Deserialize, Serialize};

use crate::batch::PreferenceBatch;
use crate::config::TrainConfig;
use crate::loss::target_log_probabilities;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreferenceLoss {
    #[default]
    Sigmoid,
    Ipo,
    Simpo,
    Orpo,
}

impl PreferenceLoss {
    /// Whether reference scores are needed.
    pub fn needs_reference(self) -> bool {
        matches!(self, Self::Sigmoid | Self::Ipo)
    }

    /// Whether the share of wrong labels is part of the formula.
    pub(crate) fn smooths(self) -> bool {
        matches!(self, Self::Sigmoid | Self::Simpo)
    }
}

/// A loss with its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    pub kind: PreferenceLoss,
    pub beta: f64,
    /// The share of pairs that are believed to be the wrong way round.
    pub label_smoothing: f64,
    /// The margin that SimPO asks for.
    pub simpo_gamma: f64,
    /// What the chosen answers' mean cross-entropy a token is multiplied by before it is added.
    pub nll: f64,
}

/// One answer's log-probabilities, summed over its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    pub policy: f64,
    /// Not looked at by losses without a reference.
    pub reference: f64,
    pub tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    pub chosen: Score,
    pub rejected: Score,
}

/// A pair's loss and its derivatives by the policy's two sums. The cross-entropy is not in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    pub loss: f64,
    pub by_chosen: f64,
    pub by_rejected: f64,
    pub reward_chosen: f64,
    pub reward_rejected: f64,
    /// The policy's log-probabilities as the loss takes them: sums or means over tokens.
    pub logps_chosen: f64,
    pub logps_rejected: f64,
    /// Orpo's log odds ratio; 0 for others.
    pub log_odds: f64,
}

/// Means over pairs, named as TRL's `rewards/…`, `logps/…`, `nll_loss`, `log_odds_…`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PreferenceMeasures {
    pub loss: f64,
    pub chosen: f64,
    pub rejected: f64,
    pub margins: f64,
    /// The share of pairs whose chosen answer has the larger reward.
    pub accuracies: f64,
    pub logps_chosen: f64,
    pub logps_rejected: f64,
    /// The chosen answers' mean cross-entropy a token.
    pub nll_loss: f64,
    /// Orpo's; 0 for others. The first is the mean of `log σ` of the log odds ratio.
    pub log_odds_ratio: f64,
    pub log_odds_chosen: f64,
}

impl PreferenceMeasures {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// As numbers that can be added up, and back.
    pub fn values(&self) -> [f64; Self::COUNT] {
        [
            self.loss,
            self.chosen,
            self.rejected,
            self.margins,
            self.accuracies,
            self.logps_chosen,
            self.logps_rejected,
            self.nll_loss,
            self.log_odds_ratio,
            self.log_odds_chosen,
        ]
    }

    pub fn of_values(values: [f64; Self::COUNT]) -> Self {
        let [
            loss,
            chosen,
            rejected,
            margins,
            accuracies,
            logps_chosen,
            logps_rejected,
            nll_loss,
            log_odds_ratio,
            log_odds_chosen,
        ] = values;
        Self {
            loss,
            chosen,
            rejected,
            margins,
            accuracies,
            logps_chosen,
            logps_rejected,
            nll_loss,
            log_odds_ratio,
            log_odds_chosen,
        }
    }
}

/// `log σ(x)`, without overflow.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log(p / (1 − p))` of `log p`, which is below 0, and its slope.
fn log_odds(log_p: f64) -> (f64, f64) {
    let log_p = log_p.min(-1e-7);
    let rest = -log_p.exp_m1();
    (log_p - rest.ln(), 1.0 / rest)
}

impl Objective {
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            kind: config.loss,
            beta: config.beta,
            label_smoothing: config.label_smoothing,
            simpo_gamma: config.simpo_gamma,
            nll: match config.loss {
                PreferenceLoss::Orpo => 1.0,
                PreferenceLoss::Simpo => config.cpo_alpha,
                _ => config.rpo_alpha.unwrap_or(0.0),
            },
        }
    }

    /// `−log σ(x)` where a share of the labels is wrong, and its slope.
    fn logistic(&self, x: f64) -> (f64, f64) {
        let wrong = self.label_smoothing;
        let loss = -(1.0 - wrong) * log_sigmoid(x) - wrong * log_sigmoid(-x);
        (loss, -(1.0 - wrong) * sigmoid(-x) + wrong * sigmoid(x))
    }

    /// The loss of one pair.
    pub fn pair(&self, pair: &Pair) -> PairLoss {
        let Pair { chosen, rejected } = pair;
        let (kind, beta) = (self.kind, self.beta);
        let length = |score: &Score| score.tokens.max(1) as f64;
        // Sigmoid takes sums, the others means over tokens.
        let (chosen_scale, rejected_scale) = match kind {
            PreferenceLoss::Sigmoid => (1.0, 1.0),
            _ => (1.0 / length(chosen), 1.0 / length(rejected)),
        };
        let logps_chosen = chosen.policy * chosen_scale;
        let logps_rejected = rejected.policy * rejected_scale;
        let (mut c, mut r) = (logps_chosen, logps_rejected);
        if kind.needs_reference() {
            c -= chosen.reference * chosen_scale;
            r -= rejected.reference * rejected_scale;
        }
        let mut ratio = 0.0;
        // The loss, and its derivatives by c and r.
        let (loss, by_c, by_r) = match kind {
            PreferenceLoss::Sigmoid => {
                let (loss, slope) = self.logistic(beta * (c - r));
                (loss, beta * slope, -beta * slope)
            }
            PreferenceLoss::Ipo => {
                let distance = c - r - 1.0 / (2.0 * beta);
                (distance * distance, 2.0 * distance, -2.0 * distance)
            }
            PreferenceLoss::Simpo => {
                let (loss, slope) = self.logistic(beta * (c - r) - self.simpo_gamma);
                (loss, beta * slope, -beta * slope)
            }
            PreferenceLoss::Orpo => {
                let ((c_odds, c_slope), (r_odds, r_slope)) = (log_odds(c), log_odds(r));
                ratio = c_odds - r_odds;
                let slope = -beta * sigmoid(-ratio);
                (
                    -beta * log_sigmoid(ratio),
                    slope * c_slope,
                    -slope * r_slope,
                )
            }
        };
        PairLoss {
            loss,
            by_chosen: by_c * chosen_scale,
            by_rejected: by_r * rejected_scale,
            reward_chosen: beta * c,
            reward_rejected: beta * r,
            logps_chosen,
            logps_rejected,
            log_odds: ratio,
        }
    }
}

/// Pairs of a batch from the policy's scores and the reference's.
pub(crate) fn pairs(
    batch: &PreferenceBatch,
    kind: PreferenceLoss,
    chosen: &[f32],
    rejected: &[f32],
) -> Result<Vec<Pair>> {
    let reference = match &batch.reference {
        Some(reference) => Some(reference),
        None if kind.needs_reference() => {
            return Err(Error::internal(
                "this preference loss needs reference scores",
            ));
        }
        None => None,
    };
    let score = |policy: f32, reference: Option<&f32>, tokens: usize| Score {
        policy: f64::from(policy),
        reference: reference.copied().map_or(0.0, f64::from),
        tokens,
    };
    Ok((0..chosen.len())
        .map(|row| Pair {
            chosen: score(
                chosen[row],
                reference.and_then(|r| r.chosen.get(row)),
                batch.chosen.lengths[row],
            ),
            rejected: score(
                rejected[row],
                reference.and_then(|r| r.rejected.get(row)),
                batch.rejected.lengths[row],
            ),
        })
        .collect())
}

/// Sums of what [`PreferenceMeasures`] has means of, over any number of batches.
#[derive(Debug, Clone, Copy)]
pub struct PreferenceSums {
    objective: Objective,
    values: PreferenceMeasures,
    chosen_tokens: usize,
    pairs: usize,
}

impl PreferenceSums {
    pub fn new(objective: Objective) -> Self {
        Self {
            objective,
            values: PreferenceMeasures::default(),
            chosen_tokens: 0,
            pairs: 0,
        }
    }

    /// Counts a pair in, and answers its loss.
    pub(crate) fn add(&mut self, pair: &Pair) -> PairLoss {
        let loss = self.objective.pair(pair);
        let odds = self.objective.kind == PreferenceLoss::Orpo;
        let mut values = self.values.values();
        let of_pair = PreferenceMeasures {
            loss: loss.loss,
            chosen: loss.reward_chosen,
            rejected: loss.reward_rejected,
            margins: loss.reward_chosen - loss.reward_rejected,
            accuracies: f64::from(u8::from(loss.reward_chosen > loss.reward_rejected)),
            logps_chosen: loss.logps_chosen,
            logps_rejected: loss.logps_rejected,
            nll_loss: -pair.chosen.policy,
            log_odds_ratio: if odds {
                log_sigmoid(loss.log_odds)
            } else {
                0.0
            },
            log_odds_chosen: loss.log_odds,
        };
        for (sum, value) in values.iter_mut().zip(of_pair.values()) {
            *sum += value;
        }
        self.values = PreferenceMeasures::of_values(values);
        self.chosen_tokens += pair.chosen.tokens;
        self.pairs += 1;
        loss
    }

    /// Adds the pairs of a batch, scored without dropout.
    pub fn add_batch(&mut self, model: &Model, batch: &PreferenceBatch) -> Result<()> {
        let pass = Pass::inference();
        let tape = Tape::off(Precision::F32);
        let encoded = model.encode(&tape, &batch.chosen.source, &pass)?;
        let scores = |side| -> Result<Vec<f32>> {
            target_log_probabilities(&tape, model, side, &encoded, &pass).map(|(sums, _)| sums)
        };
        let (chosen, rejected) = (scores(&batch.chosen)?, scores(&batch.rejected)?);
        for pair in pairs(batch, self.objective.kind, &chosen, &rejected)? {
            self.add(&pair);
        }
        Ok(())
    }

    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Lets `change` add what others have found to the sums.
    pub(crate) fn share(&mut self, change: impl FnOnce(&mut [f64]) -> Result<()>) -> Result<()> {
        const COUNT: usize = PreferenceMeasures::COUNT;
        let mut numbers = [0.0; COUNT + 2];
        numbers[..COUNT].copy_from_slice(&self.values.values());
        numbers[COUNT..].copy_from_slice(&[self.chosen_tokens as f64, self.pairs as f64]);
        change(&mut numbers)?;
        let mut values = [0.0; COUNT];
        values.copy_from_slice(&numbers[..COUNT]);
        self.values = PreferenceMeasures::of_values(values);
        (self.chosen_tokens, self.pairs) = (numbers[COUNT] as usize, numbers[COUNT + 1] as usize);
        Ok(())
    }

    pub fn means(&self) -> PreferenceMeasures {
        let count = self.pairs.max(1) as f64;
        let means = PreferenceMeasures::of_values(self.values.values().map(|sum| sum / count));
        let nll_loss = self.values.nll_loss / self.chosen_tokens.max(1) as f64;
        PreferenceMeasures {
            loss: means.loss + self.objective.nll * nll_loss,
            nll_loss,
            ..means
        }
    }
}

/// Loss and rewards of a batch, without dropout.
pub fn preference_measures(
    model: &Model,
    batch: &PreferenceBatch,
    config: &TrainConfig,
) -> Result<PreferenceMeasures> {
    let mut sums = PreferenceSums::new(Objective::of(config));
    sums.add_batch(model, batch)?;
    Ok(sums.means())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Made by `test/golden/preference/make.py`: PyTorch's values and autograd in f64.
    #[test]
    fn losses_and_derivatives_agree_with_pytorch() {
        let text = include_str!("../../../test/golden/preference/pairs.json");
        let cases: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(cases.len() >= 70);
        let number = |case: &Value, name: &str| case[name].as_f64().unwrap();
        for case in &cases {
            let kind: PreferenceLoss = serde_json::from_value(case["kind"].clone()).unwrap();
            let score = |side: &str| Score {
                policy: number(case, &format!("policy_{side}")),
                reference: number(case, &format!("reference_{side}")),
                tokens: case[format!("tokens_{side}")].as_u64().unwrap() as usize,
            };
            let pair = Pair {
                chosen: score("chosen"),
                rejected: score("rejected"),
            };
            let got = Objective {
                kind,
                beta: number(case, "beta"),
                label_smoothing: number(case, "label_smoothing"),
                simpo_gamma: number(case, "simpo_gamma"),
                nll: 0.0,
            }
            .pair(&pair);
            for (name, value) in [
                ("loss", got.loss),
                ("by_chosen", got.by_chosen),
                ("by_rejected", got.by_rejected),
                ("reward_chosen", got.reward_chosen),
                ("reward_rejected", got.reward_rejected),
                ("log_odds", got.log_odds),
            ] {
                let want = number(case, name);
                let error = (value - want).abs() / want.abs().max(1.0);
                assert!(error < 1e-9, "{name}: {value} {want} in {case}");
            }
        }
    }

    #[test]
    fn no_difference_is_log_two() {
        let same = Score {
            policy: -3.0,
            reference: -3.0,
            tokens: 2,
        };
        let loss = Objective {
            kind: PreferenceLoss::Sigmoid,
            beta: 0.1,
            label_smoothing: 0.0,
            simpo_gamma: 0.5,
            nll: 0.0,
        }
        .pair(&Pair {
            chosen: same,
            rejected: same,
        });
        assert!((loss.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((loss.by_chosen + 0.05).abs() < 1e-15);
    }
}
