//! A request at work: its answers' texts so far, and when things happened.

use std::time::Instant;

use chatlm_generate::Answer as Found;
use chatlm_job::Result;
use chatlm_tokenizer::Tokenizer;

use super::{Outcome, Told, Waiting, given_up};
use crate::generator::Answer;
use crate::tell::Spoken;

/// What one answer of a request has said.
struct Voice {
    spoken: Spoken,
    text: String,
    tokens: Vec<u32>,
}

pub(crate) struct Running {
    pub(crate) asked: Waiting,
    pub(crate) place: usize,
    began: Instant,
    first: Option<Instant>,
    voices: Vec<Voice>,
    /// Nobody listens, or telling failed.
    pub(crate) gone: bool,
    /// What went wrong while its tokens were spelled.
    pub(crate) result: Result<()>,
}

impl Running {
    pub(crate) fn new(asked: Waiting, place: usize) -> Self {
        Self {
            asked,
            place,
            began: Instant::now(),
            first: None,
            voices: Vec::new(),
            gone: false,
            result: Ok(()),
        }
    }

    /// Whether it is to be given up at `now`.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.gone || self.asked.is_over(now)
    }

    /// Tokens that are certain; tells their text.
    pub(crate) fn wrote(&mut self, answer: usize, tokens: &[u32], tokenizer: &Tokenizer) {
        self.first.get_or_insert_with(Instant::now);
        while self.voices.len() <= answer {
            self.voices.push(Voice {
                spoken: Spoken::new(tokenizer, &self.asked.stops),
                text: String::new(),
                tokens: Vec::new(),
            });
        }
        let voice = &mut self.voices[answer];
        voice.tokens.extend_from_slice(tokens);
        match voice.spoken.push(tokens) {
            Ok(text) if !text.is_empty() => {
                voice.text += &text;
                let told = Told::Text {
                    answer,
                    text,
                    tokens: voice.tokens.len(),
                };
                self.gone |= !(self.asked.tell)(told);
            }
            Ok(_) => {}
            Err(error) => self.result = Err(error),
        }
    }

    /// Its end, with the answers that the search found.
    pub(crate) fn outcome(&mut self, found: Vec<Found>, tokenizer: &Tokenizer) -> Result<Outcome> {
        std::mem::replace(&mut self.result, Ok(()))?;
        let mut answers = Vec::with_capacity(found.len());
        for found in found {
            let text = tokenizer.decode(&found.tokens)?;
            answers.push(Answer {
                prompt: self.asked.prompt.clone(),
                response: self.asked.stops.cut(&text).to_owned(),
                tokens: found.tokens,
                score: found.score.map(f64::from),
                finish_reason: found.end.into(),
            });
        }
        // What a stream has not told yet of an answer is the end of its text.
        let mut rest = Vec::with_capacity(answers.len());
        for (place, answer) in answers.iter().enumerate() {
            let told = self.voices.get(place).map_or("", |voice| &voice.text);
            let left = answer.response.strip_prefix(told).unwrap_or_default();
            rest.push(left.to_owned());
        }
        Ok(self.end(answers, rest))
    }

    /// Tells its end where it was given up: what it had said.
    pub(crate) fn give_up(mut self) {
        let mut answers = Vec::new();
        let mut rest = Vec::new();
        for mut voice in std::mem::take(&mut self.voices) {
            let left = voice.spoken.finish().unwrap_or_default();
            let text = voice.text + &left;
            answers.push(given_up(&self.asked.prompt, text, voice.tokens));
            rest.push(left);
        }
        let outcome = self.end(answers, rest);
        (self.asked.tell)(Told::Done(outcome));
    }

    fn end(&self, answers: Vec<Answer>, rest: Vec<String>) -> Outcome {
        let since = |at: Instant| at.duration_since(self.asked.came).as_secs_f64();
        Outcome {
            answers,
            rest,
            prompt_tokens: self.asked.request.ids.len(),
            cut: self.asked.cut,
            waited_seconds: since(self.began),
            first_token_seconds: self.first.map(since),
            seconds: since(Instant::now()),
        }
    }
}

impl Waiting {
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.cancel.is_cancelled() || self.deadline.is_some_and(|deadline| now >= deadline)
    }
}
