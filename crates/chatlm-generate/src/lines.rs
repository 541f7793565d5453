//! Greedy search and sampling: each answer is a line that knows of no other.

use chatlm_job::{Random, Result, mix};

use crate::draw::{best, draw};
use crate::writer::{Answer, End, Needs, Next, Observer, Read, Task, Writer};

struct Line {
    /// The decoder's input so far, start token included.
    history: Vec<u32>,
    random: Random,
    end: Option<End>,
}

/// One request's answers: one, or several drawn ones.
pub(crate) struct Lines {
    task: Task,
    all: Vec<Line>,
    /// Whether all lines still stand at the one row that has read the start token.
    together: bool,
}

impl Lines {
    pub(crate) fn new(task: Task) -> Self {
        let all = (0..task.settings.answers.max(1))
            .map(|answer| Line {
                history: vec![task.start],
                // The first answer is the same however many are asked for.
                random: Random::new(match answer {
                    0 => task.key,
                    _ => mix(task.key, answer as u64),
                }),
                end: None,
            })
            .collect();
        Self {
            task,
            all,
            together: true,
        }
    }
}

impl Writer for Lines {
    fn needs(&self) -> Needs {
        if self.task.takes_best() {
            Needs::Best
        } else {
            Needs::Logits
        }
    }

    fn read(&mut self, read: Read<'_>) -> Result<()> {
        let live = self.all.iter_mut().filter(|line| line.end.is_none());
        match read {
            Read::Best(tokens) => {
                let mut row = 0;
                for line in live {
                    let Some(token) = tokens.get(row).copied().flatten() else {
                        return Err(self.task.not_finite(line.history.len() - 1));
                    };
                    line.history.push(token);
                    row += usize::from(!self.together);
                }
            }
            Read::Logits { logits, .. } => {
                let mut scores = Vec::new();
                let mut row = 0;
                for line in live {
                    scores.clear();
                    let width = self.task.vocabulary;
                    scores.extend_from_slice(&logits[row * width..][..width]);
                    self.task.check_finite(&scores, line.history.len() - 1)?;
                    self.task.filter(&mut scores, &line.history);
                    let token = if self.task.settings.search.draws() {
                        draw(&scores, &mut line.random)
                    } else {
                        best(&scores)
                    };
                    let token = token.unwrap_or_else(|| self.task.last_resort());
                    line.history.push(token);
                    row += usize::from(!self.together);
                }
            }
        }
        Ok(())
    }

    fn go_on(&mut self, observer: &mut dyn Observer) -> Next {
        let mut next = Next::default();
        let mut row = 0;
        for (answer, line) in self.all.iter_mut().enumerate() {
            if line.end.is_some() {
                continue;
            }
            let last = line.history[line.history.len() - 1];
            self.task.wrote(observer, answer, &[last]);
            line.end = self.task.end(&line.history, observer);
            if line.end.is_none() {
                next.parents.push(row);
                next.tokens.push(last);
            }
            row += usize::from(!self.together);
        }
        self.together = false;
        next
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.all
            .drain(..)
            .map(|line| {
                let end = line.end.unwrap_or(End::Length);
                self.task.answer(&line.history, None, end)
            })
            .collect()
    }
}
