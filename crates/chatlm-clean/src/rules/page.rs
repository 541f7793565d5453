//! Pages of a wiki that are no articles.

use chatlm_dataset::Row;
use serde_json::Value;

use crate::sample::Rule;

fn namespace(row: &Row) -> i64 {
    row.fields
        .get("namespace")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

fn is_redirect(row: &Row) -> bool {
    row.fields.get("redirect").and_then(Value::as_bool) == Some(true) || {
        let text = row
            .fields
            .get("text")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let start: String = text.trim_start().chars().take(12).collect();
        ["#redirect", "#重定向"]
            .iter()
            .any(|mark| start.to_lowercase().starts_with(mark))
    }
}

/// Pages whose text nobody reads as an article, whatever it is.
pub(crate) fn is_elsewhere(row: &Row) -> bool {
    namespace(row) != 0 || is_redirect(row)
}

/// Drops pages outside the main namespace: talk, users, templates, categories.
pub fn other_namespace() -> Rule {
    Rule::drop_row("other-namespace", |row| namespace(row) != 0)
}

/// Drops redirects.
pub fn redirect() -> Rule {
    Rule::drop_row("redirect", is_redirect)
}

/// Drops pages that list what a title may mean.
pub fn disambiguation() -> Rule {
    Rule::drop_row("disambiguation", |row| {
        let text = |name: &str| {
            row.fields
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let title = text("title").trim_end();
        let marked = [
            "(消歧义)",
            "(消歧義)",
            "（消歧义）",
            "（消歧義）",
            "(disambiguation)",
        ];
        marked.iter().any(|mark| title.ends_with(mark)) || has_template(text("text"))
    })
}

fn has_template(text: &str) -> bool {
    const NAMES: [&str; 6] = ["disambig", "disamb", "消歧义", "消歧義", "dab", "hndis"];
    text.match_indices("{{").any(|(at, _)| {
        let name: String = text[at + 2..].trim_start().chars().take(14).collect();
        let name = name.to_lowercase();
        NAMES.iter().any(|known| {
            let rest = name.strip_prefix(known);
            rest.is_some_and(|rest| {
                !rest.starts_with(|c: char| c.is_ascii_lowercase()) || *known == "disambig"
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, Step};
    use serde_json::json;

    fn falls(rule: &Rule, fields: &Value) -> bool {
        let row = Row {
            file: "test".into(),
            row: 0,
            fields: fields.as_object().cloned().unwrap_or_default(),
        };
        rule.apply(&row, &mut Sample::new("", [])) == Step::Dropped
    }

    #[test]
    fn pages_that_are_no_articles_fall() {
        assert!(falls(&other_namespace(), &json!({"namespace": 10})));
        assert!(!falls(&other_namespace(), &json!({"namespace": 0})));
        assert!(falls(&redirect(), &json!({"redirect": true})));
        assert!(falls(&redirect(), &json!({"text": "#重定向 [[甲]]"})));
        assert!(falls(&redirect(), &json!({"text": "#REDIRECT [[甲]]"})));
        assert!(!falls(&redirect(), &json!({"text": "#一"})));
        for text in [
            "甲可以指：\n{{disambig}}",
            "{{ Disambiguation}}",
            "{{消歧義}}",
            "{{Dab|x}}",
        ] {
            assert!(falls(&disambiguation(), &json!({"text": text})), "{text}");
        }
        for text in ["{{dabble}}", "甲{{乙}}"] {
            assert!(
                !falls(&disambiguation(), &json!({"title": "甲", "text": text})),
                "{text}"
            );
        }
        assert!(falls(
            &disambiguation(),
            &json!({"title": "甲 (消歧义)", "text": ""})
        ));
    }
}
