//! Conversations: the layouts they are published in, and what a row with one question and one answer
//! can hold of them. An exchange is a human's turn that an answer follows directly.

use chatlm_dataset::Row;
use chatlm_job::Result;
use serde_json::{Map, Value};

use crate::options::Turns;
use crate::sample::Sample;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    Human,
    Assistant,
    /// Instructions to the model, calls of tools and what they answered.
    Other,
}

pub(super) type Turn = (Speaker, String);

/// Fields that hold a conversation as a list.
const LISTS: [&str; 3] = ["conversations", "conversation", "messages"];

/// The list that a row holds its conversation in.
pub(super) fn listed(row: &Row) -> Option<&'static str> {
    let is_list = |name: &&str| row.fields.get(*name).is_some_and(Value::is_array);
    LISTS.into_iter().find(is_list)
}

/// The turns of a list of `{from, value}`, `{role, content}` or `{human, assistant}`.
pub(super) fn list(row: &Row, field: &'static str) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    let Some(Value::Array(items)) = row.fields.get(field) else {
        return Err(row.error(field, &format!("the field {field:?} is no list of turns")));
    };
    for (place, item) in items.iter().enumerate() {
        let wrong = |what: &str| row.error(field, &format!("turn {place} of {field:?} {what}"));
        let turn = item.as_object().ok_or_else(|| wrong("is no object"))?;
        let text = |name: &str| turn.get(name).and_then(Value::as_str);
        if let (Some(human), Some(assistant)) = (text("human"), text("assistant")) {
            turns.push((Speaker::Human, human.to_owned()));
            turns.push((Speaker::Assistant, assistant.to_owned()));
            continue;
        }
        let (Some(name), said) = (text("from").or(text("role")), said(turn)) else {
            return Err(wrong("does not say who speaks in \"from\" or \"role\""));
        };
        let speaker = speaker(name).ok_or_else(|| wrong(&format!("is spoken by {name:?}")))?;
        match said {
            Some(text) => turns.push((speaker, text.to_owned())),
            // Calls of tools have no text of their own.
            None if speaker != Speaker::Human => turns.push((Speaker::Other, String::new())),
            None => return Err(wrong("has no text in \"value\" or \"content\"")),
        }
    }
    Ok(turns)
}

fn said(turn: &Map<String, Value>) -> Option<&str> {
    turn.get("value").or(turn.get("content"))?.as_str()
}

fn speaker(name: &str) -> Option<Speaker> {
    Some(match name.to_ascii_lowercase().as_str() {
        "human" | "user" | "prompter" | "question" => Speaker::Human,
        "gpt" | "assistant" | "chatgpt" | "bot" | "bing" | "bard" | "model" | "answer" => {
            Speaker::Assistant
        }
        "system" | "tool" | "function" | "function_call" | "function_response" | "observation" => {
            Speaker::Other
        }
        _ => return None,
    })
}

const MARKS: [(&str, Speaker); 4] = [
    ("Human:", Speaker::Human),
    ("Human：", Speaker::Human),
    ("Assistant:", Speaker::Assistant),
    ("Assistant：", Speaker::Assistant),
];

/// The turns of a text in which `Human:` and `Assistant:` begin lines; `None` where it is no such text.
pub(super) fn written(text: &str) -> Option<Vec<Turn>> {
    let mut turns: Vec<Turn> = Vec::new();
    for line in text.trim_start().split('\n') {
        let marked = MARKS
            .iter()
            .find_map(|(mark, speaker)| Some((*speaker, line.trim_start().strip_prefix(mark)?)));
        match (marked, turns.last_mut()) {
            (Some((speaker, rest)), _) => turns.push((speaker, rest.to_owned())),
            (None, Some((_, said))) => {
                said.push('\n');
                said.push_str(line);
            }
            (None, None) => return None,
        }
    }
    Some(turns)
}

/// Puts an answer where a written conversation leaves off.
pub(super) fn answered(mut turns: Vec<Turn>, answer: &str) -> Vec<Turn> {
    match turns.last_mut() {
        Some((Speaker::Assistant, said)) if said.trim().is_empty() => answer.clone_into(said),
        _ => turns.push((Speaker::Assistant, answer.to_owned())),
    }
    turns
}

/// The exchanges as samples; a sample without answers where there is none.
pub(super) fn draw(turns: Vec<Turn>, which: Turns, samples: &mut Vec<Sample>) {
    let before = samples.len();
    let mut asked: Option<String> = None;
    for (speaker, text) in turns {
        match (speaker, asked.take()) {
            (Speaker::Human, _) => asked = Some(text),
            (Speaker::Assistant, Some(prompt)) => {
                samples.push(Sample::new(prompt, [text]));
                if which == Turns::First {
                    return;
                }
            }
            _ => {}
        }
    }
    if samples.len() == before {
        samples.push(Sample::new(asked.unwrap_or_default(), []));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pairs(turns: Vec<Turn>, which: Turns) -> Vec<String> {
        let mut samples = Vec::new();
        draw(turns, which, &mut samples);
        let texts = |sample: Sample| sample.texts().collect::<Vec<_>>().join("|");
        samples.into_iter().map(texts).collect()
    }

    #[test]
    fn written_conversations_are_taken_apart() {
        let text = "Human: 一\n二\nAssistant: 三\nHuman：四\nAssistant:";
        let turns = answered(written(text).unwrap(), "五");
        assert_eq!(pairs(turns.clone(), Turns::Each), [" 一\n二| 三", "四|五"]);
        assert_eq!(pairs(turns, Turns::First), [" 一\n二| 三"]);
        assert_eq!(written("说说 Human: 是什么"), None);
    }

    #[test]
    fn a_question_counts_where_an_answer_follows() {
        use Speaker::{Assistant, Human, Other};
        let turns = |speakers: &[Speaker]| {
            let turn = |(at, speaker): (usize, &Speaker)| (*speaker, at.to_string());
            speakers.iter().enumerate().map(turn).collect::<Vec<_>>()
        };
        let each = |speakers: &[Speaker]| pairs(turns(speakers), Turns::Each);
        assert_eq!(each(&[Other, Human, Human, Assistant, Assistant]), ["2|3"]);
        assert_eq!(each(&[Human, Other, Assistant, Human, Assistant]), ["3|4"]);
        assert_eq!(each(&[Assistant, Human]), ["1"]);
        assert_eq!(each(&[]), [""]);
    }
}
