//! Losses over pairs of answers, one pair at a time in f64, with their derivatives by the two
//! log-probabilities; the model's gradients follow by the chain rule.
//!
//! Sigmoid: Rafailov et al. 2023 (DPO). Ipo: Azar et al. 2023. Simpo: Meng et al. 2024, gamma 0.5.
//! Orpo: Hong et al. 2024, with the mean cross-entropy of the chosen answers added. Formulas and
//! averaging as TRL's DPO, CPO and ORPO trainers; golden numbers in `test/golden/preference`.

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

/// The margin that SimPO asks for (TRL's `simpo_gamma`).
const SIMPO_GAMMA: f64 = 0.5;

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

/// A pair's loss and its derivatives by the policy's two sums. Orpo's cross-entropy is not in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    pub loss: f64,
    pub by_chosen: f64,
    pub by_rejected: f64,
    pub reward_chosen: f64,
    pub reward_rejected: f64,
}

/// Means over pairs, named as TRL's `rewards/…`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PreferenceMeasures {
    pub loss: f64,
    pub chosen: f64,
    pub rejected: f64,
    pub margins: f64,
    /// The share of pairs whose chosen answer has the larger reward.
    pub accuracies: f64,
}

/// `log σ(x)`, without overflow.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl PreferenceLoss {
    /// Whether reference scores are needed.
    pub fn needs_reference(self) -> bool {
        matches!(self, Self::Sigmoid | Self::Ipo)
    }

    /// Whether the chosen answers' cross-entropy is added.
    pub(crate) fn adds_cross_entropy(self) -> bool {
        self == Self::Orpo
    }

    /// The loss of one pair.
    pub fn pair(self, beta: f64, pair: &Pair) -> PairLoss {
        let Pair { chosen, rejected } = pair;
        let length = |score: &Score| score.tokens.max(1) as f64;
        // Sigmoid takes sums, the others means over tokens.
        let (chosen_scale, rejected_scale) = match self {
            Self::Sigmoid => (1.0, 1.0),
            _ => (1.0 / length(chosen), 1.0 / length(rejected)),
        };
        let mut c = chosen.policy * chosen_scale;
        let mut r = rejected.policy * rejected_scale;
        if self.needs_reference() {
            c -= chosen.reference * chosen_scale;
            r -= rejected.reference * rejected_scale;
        }
        // The loss, and its derivatives by c and r.
        let (loss, by_c, by_r) = match self {
            Self::Sigmoid => {
                let x = beta * (c - r);
                let slope = -beta * sigmoid(-x);
                (-log_sigmoid(x), slope, -slope)
            }
            Self::Ipo => {
                let distance = c - r - 1.0 / (2.0 * beta);
                (distance * distance, 2.0 * distance, -2.0 * distance)
            }
            Self::Simpo => {
                let x = beta * (c - r) - SIMPO_GAMMA;
                let slope = -beta * sigmoid(-x);
                (-log_sigmoid(x), slope, -slope)
            }
            Self::Orpo => {
                // log(p / (1 − p)) of mean log-probabilities, which are below 0.
                let odds = |x: f64| {
                    let x = x.min(-1e-7);
                    let rest = -x.exp_m1();
                    (x - rest.ln(), 1.0 / rest)
                };
                let ((c_odds, c_slope), (r_odds, r_slope)) = (odds(c), odds(r));
                let x = c_odds - r_odds;
                let slope = -beta * sigmoid(-x);
                (-beta * log_sigmoid(x), slope * c_slope, -slope * r_slope)
            }
        };
        PairLoss {
            loss,
            by_chosen: by_c * chosen_scale,
            by_rejected: by_r * rejected_scale,
            reward_chosen: beta * c,
            reward_rejected: beta * r,
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

/// Sums of what [`PreferenceMeasures`] has means of.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sums {
    measures: PreferenceMeasures,
    /// Of the chosen answers, where the loss adds it.
    cross_entropy: f64,
    chosen_tokens: usize,
    pub(crate) pairs: usize,
}

impl Sums {
    pub(crate) fn add(&mut self, kind: PreferenceLoss, pair: &Pair, loss: &PairLoss) {
        let m = &mut self.measures;
        m.loss += loss.loss;
        m.chosen += loss.reward_chosen;
        m.rejected += loss.reward_rejected;
        m.margins += loss.reward_chosen - loss.reward_rejected;
        m.accuracies += f64::from(u8::from(loss.reward_chosen > loss.reward_rejected));
        if kind.adds_cross_entropy() {
            self.cross_entropy -= pair.chosen.policy;
            self.chosen_tokens += pair.chosen.tokens;
        }
        self.pairs += 1;
    }

    /// As numbers that can be added up, and back.
    pub(crate) fn numbers(&self) -> [f64; 8] {
        let m = &self.measures;
        let counts = [self.chosen_tokens as f64, self.pairs as f64];
        [
            m.loss,
            m.chosen,
            m.rejected,
            m.margins,
            m.accuracies,
            self.cross_entropy,
            counts[0],
            counts[1],
        ]
    }

    pub(crate) fn of_numbers(numbers: [f64; 8]) -> Self {
        let [
            loss,
            chosen,
            rejected,
            margins,
            accuracies,
            cross_entropy,
            tokens,
            pairs,
        ] = numbers;
        Self {
            measures: PreferenceMeasures {
                loss,
                chosen,
                rejected,
                margins,
                accuracies,
            },
            cross_entropy,
            chosen_tokens: tokens as usize,
            pairs: pairs as usize,
        }
    }

    pub(crate) fn means(&self) -> PreferenceMeasures {
        let count = self.pairs.max(1) as f64;
        let m = &self.measures;
        PreferenceMeasures {
            loss: m.loss / count + self.cross_entropy / self.chosen_tokens.max(1) as f64,
            chosen: m.chosen / count,
            rejected: m.rejected / count,
            margins: m.margins / count,
            accuracies: m.accuracies / count,
        }
    }
}

/// Loss and rewards of a batch, without dropout.
pub fn preference_measures(
    model: &Model,
    batch: &PreferenceBatch,
    config: &TrainConfig,
) -> Result<PreferenceMeasures> {
    let pass = Pass::inference();
    let tape = Tape::off(Precision::F32);
    let encoded = model.encode(&tape, &batch.chosen.source, &pass)?;
    let scores = |side| -> Result<Vec<f32>> {
        target_log_probabilities(&tape, model, side, &encoded, &pass).map(|(sums, _)| sums)
    };
    let (chosen, rejected) = (scores(&batch.chosen)?, scores(&batch.rejected)?);
    let mut sums = Sums::default();
    for pair in pairs(batch, config.loss, &chosen, &rejected)? {
        sums.add(config.loss, &pair, &config.loss.pair(config.beta, &pair));
    }
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
        assert!(cases.len() >= 40);
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
            let got = kind.pair(number(case, "beta"), &pair);
            for (name, value) in [
                ("loss", got.loss),
                ("by_chosen", got.by_chosen),
                ("by_rejected", got.by_rejected),
                ("reward_chosen", got.reward_chosen),
                ("reward_rejected", got.reward_rejected),
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
        let loss = PreferenceLoss::Sigmoid.pair(
            0.1,
            &Pair {
                chosen: same,
                rejected: same,
            },
        );
        assert!((loss.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((loss.by_chosen + 0.05).abs() < 1e-15);
    }
}
