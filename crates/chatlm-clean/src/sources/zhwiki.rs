//! zhwiki: the beginning of an article as the answer to a question about its title. Dumps, or text as
//! WikiExtractor writes it; the reading is in `wiki/`.
//!
//! By default numbers and signs stay as they are, an answer ends with a sentence and holds no more
//! than 512 characters; redirects, disambiguations and pages of other namespaces fall.

use chatlm_dataset::{Row, expand};
use chatlm_job::Result;
use serde_json::Value;

use super::{ANSWERS, for_purpose};
use crate::options::{CleanOptions, Purpose};
use crate::rules::{characters, length, page, spaces};
use crate::sample::Sample;
use crate::source::{Kind, Raw, Recipe};
use crate::wiki::compat::Compat;
use crate::wiki::{self, Articles};

/// Characters of an answer.
const LONGEST: usize = 512;
const SHORTEST: usize = 10;

pub(super) static KIND: Kind = Kind {
    name: "zhwiki",
    purposes: ANSWERS,
    compat: &[Purpose::Pretrain],
    columns: false,
    turns: false,
    recipe,
    open,
};

fn open(options: &CleanOptions) -> Result<Box<dyn Raw>> {
    if options.compat {
        // The reference program reads no dumps.
        let lines = wiki::lines(expand(&options.inputs)?);
        return Ok(Box::new(Compat::new(lines, questions(options)?)));
    }
    let files = wiki::files(&options.inputs)?;
    Ok(Box::new(Articles::open(files, options)))
}

fn questions(options: &CleanOptions) -> Result<wiki::questions::Questions> {
    wiki::questions::Questions::open(options.templates.as_deref(), options.seed)
}

fn recipe(options: &CleanOptions) -> Recipe {
    if options.compat {
        let sample = |row: &Row| {
            Ok(Sample::new(
                row.text("prompt")?,
                [row.text("response")?.to_owned()],
            ))
        };
        return Recipe::one(sample, Vec::new());
    }
    let rules = vec![
        page::other_namespace(),
        page::redirect(),
        page::disambiguation(),
        characters::characters(),
        spaces::spaces(),
        for_purpose(options.purpose),
        length::empty_prompt(),
        length::short_response(SHORTEST),
    ];
    let most = if options.purpose == Purpose::Sft {
        super::LONGEST
    } else {
        LONGEST
    };
    // A list that cannot be read is told where the inputs are opened.
    let questions = questions(options).ok();
    Recipe::one(move |row| sample(row, questions.as_ref(), most), rules)
}

fn sample(
    row: &Row,
    questions: Option<&wiki::questions::Questions>,
    most: usize,
) -> Result<Sample> {
    let (title, text) = (row.text("title")?, row.text("text")?);
    if page::is_elsewhere(row) {
        return Ok(Sample::new("", [String::new()]));
    }
    let title = wiki::simplify(title.trim());
    let markup = row.fields.get("markup").and_then(Value::as_bool) == Some(true);
    let text = if markup {
        wiki::plain(text)
    } else {
        text.to_owned()
    };
    let text = wiki::simplify(&text).into_owned();
    let prompt = questions.map_or_else(String::new, |questions| questions.of(&title));
    Ok(Sample::new(prompt, [wiki::passage(&text, most).to_owned()]))
}
