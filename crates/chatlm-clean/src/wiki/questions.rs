//! Titles to questions, from templates with `{title}`.

use std::path::Path;

use chatlm_job::{Code, Error, Result, mix};

const TITLE: &str = "{title}";

/// Ways to ask, of our own.
const USUAL: [&str; 20] = [
    "{title}是什么？",
    "请介绍一下{title}。",
    "请问{title}指的是什么？",
    "讲讲{title}吧。",
    "关于{title}，你知道些什么？",
    "帮我了解一下{title}。",
    "请用一段话说明{title}。",
    "{title}的基本情况是怎样的？",
    "我想了解{title}，请说一说。",
    "请写一段关于{title}的百科简介。",
    "怎样理解{title}？",
    "能给我讲讲{title}吗？",
    "请概述{title}。",
    "谈谈你对{title}的了解。",
    "有没有{title}的相关资料？",
    "什么叫{title}？",
    "{title}是怎么回事？",
    "麻烦你解释{title}。",
    "说明一下{title}的含义或来历。",
    "我没听说过{title}，请告诉我它是什么。",
];

/// The templates in use.
pub(crate) struct Questions {
    templates: Vec<String>,
    seed: u64,
}

impl Questions {
    /// Templates of a file, one a line, or our own.
    pub(crate) fn open(file: Option<&Path>, seed: u64) -> Result<Self> {
        let Some(path) = file else {
            return Ok(Self {
                templates: USUAL.map(str::to_owned).to_vec(),
                seed,
            });
        };
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(&e, "read", path))?;
        let text = text.trim_start_matches('\u{feff}');
        let wrong = |what: String| {
            Error::new(
                Code::InputFormat,
                format!("{}{what}", path.display()),
                "write a question a line, with {title} where the title goes",
            )
            .with("file", path.display().to_string())
        };
        let mut templates = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if !line.contains(TITLE) {
                let what = format!(", line {}: there is no {TITLE} in {line:?}", number + 1);
                return Err(wrong(what).with("row", number));
            }
            templates.push(line.to_owned());
        }
        if templates.is_empty() {
            return Err(wrong(" holds no template".to_owned()));
        }
        Ok(Self { templates, seed })
    }

    pub(crate) fn len(&self) -> usize {
        self.templates.len()
    }

    /// The question of a template by its number.
    pub(crate) fn nth(&self, number: usize, title: &str) -> String {
        self.templates[number % self.templates.len()].replace(TITLE, title)
    }

    /// The question of a title: the same seed and title ask the same.
    pub(crate) fn of(&self, title: &str) -> String {
        let key = title
            .chars()
            .fold(self.seed, |key, c| mix(key, u64::from(c)));
        self.nth((key % self.templates.len() as u64) as usize, title)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_title_asks_by_seed_and_all_templates_are_used() {
        let ask = |seed| {
            let questions = Questions::open(None, seed).unwrap();
            (0..2000)
                .map(|n| questions.of(&format!("标题{n}")))
                .collect::<Vec<_>>()
        };
        assert_eq!(ask(1), ask(1));
        assert_ne!(ask(1), ask(2));
        for template in USUAL {
            assert_eq!(template.matches(TITLE).count(), 1, "{template}");
            let (before, after) = template.split_once(TITLE).unwrap();
            assert!(
                ask(1)
                    .iter()
                    .any(|q| q.starts_with(before) && q.ends_with(after))
            );
        }
    }

    #[test]
    fn a_template_without_a_title_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.txt");
        std::fs::write(&path, "{title}？\n\n介绍一下\n").unwrap();
        let error = Questions::open(Some(&path), 0).err().unwrap();
        assert!(error.message().contains("line 3"), "{error}");
        std::fs::write(&path, "\n").unwrap();
        assert!(Questions::open(Some(&path), 0).is_err());
    }
}
