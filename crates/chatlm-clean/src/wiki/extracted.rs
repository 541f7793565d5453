//! Text as WikiExtractor writes it: lines of `title:` after an empty one and paragraphs (apertium's), or
//! `<doc … title="…">` to `</doc>` (attardi's).

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use chatlm_job::{Code, Error, Result};

use super::{Article, Fault, LONGEST};

/// The lines of files, with their ends. Bytes that are no UTF-8 are counted and become U+FFFD.
pub(crate) struct Lines {
    files: std::vec::IntoIter<PathBuf>,
    file: Arc<str>,
    reader: Option<Box<dyn BufRead + Send>>,
    line: u64,
    undecodable: u64,
}

impl Lines {
    pub(crate) fn open(files: Vec<PathBuf>) -> Self {
        Self {
            files: files.into_iter(),
            file: "".into(),
            reader: None,
            line: 0,
            undecodable: 0,
        }
    }

    /// The lines of a file that is open already.
    pub(crate) fn of(file: Arc<str>, reader: Box<dyn BufRead + Send>) -> Self {
        Self {
            files: Vec::new().into_iter(),
            file,
            reader: Some(reader),
            line: 0,
            undecodable: 0,
        }
    }

    pub(crate) fn file(&self) -> &Arc<str> {
        &self.file
    }

    pub(crate) fn undecodable(&self) -> u64 {
        self.undecodable
    }

    fn read(&mut self) -> std::io::Result<Option<String>> {
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let limit = LONGEST as u64 + 1;
        reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() > LONGEST {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("line {} is longer than {} MiB", self.line, LONGEST >> 20),
            ));
        }
        self.line += 1;
        // Python reads every end of line as a newline.
        if bytes.ends_with(b"\r\n") {
            bytes.truncate(bytes.len() - 2);
            bytes.push(b'\n');
        }
        let start = if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            3
        } else {
            0
        };
        let text = String::from_utf8_lossy(&bytes[start..]);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            self.undecodable += text.matches('\u{fffd}').count() as u64;
        }
        Ok(Some(text.into_owned()))
    }
}

impl Iterator for Lines {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read() {
                Ok(Some(line)) => return Some(Ok(line)),
                Ok(None) => {}
                Err(error) => {
                    self.reader = None;
                    let what = format!("{} cannot be read: {error}", self.file);
                    let help = "the file is broken: make or fetch it again";
                    return Some(Err(
                        Error::new(Code::InputFormat, what, help).with("file", &*self.file)
                    ));
                }
            }
            let path = self.files.next()?;
            self.file = path.display().to_string().into();
            self.line = 0;
            match File::open(&path) {
                Ok(file) => self.reader = Some(Box::new(BufReader::with_capacity(1 << 18, file))),
                Err(error) => return Some(Err(Error::io(&error, "read", &path))),
            }
        }
    }
}

/// The articles of lines.
pub(super) struct Extracted {
    lines: Lines,
    /// The title of the next article, met at the end of the last.
    title: Option<String>,
    /// The file is attardi's form.
    docs: bool,
}

impl Extracted {
    pub(super) fn new(lines: Lines, docs: bool) -> Self {
        Self {
            lines,
            title: None,
            docs,
        }
    }

    pub(super) fn undecodable(&self) -> u64 {
        self.lines.undecodable
    }

    fn line(&mut self) -> Result<Option<String>, Fault> {
        let line = self.lines.next().transpose();
        line.map_err(|error| Fault::File(error.message().to_owned()))
    }

    fn doc(&mut self) -> Result<Option<Article>, Fault> {
        let title = loop {
            let Some(line) = self.line()? else {
                return Ok(None);
            };
            if let Some(title) = doc_title(&line) {
                break title;
            }
        };
        let mut article = Article {
            title,
            ..Article::default()
        };
        while let Some(line) = self.line()? {
            if line.trim_end() == "</doc>" {
                // The title is the first line of the text as well.
                let rest = article.text.strip_prefix(&article.title);
                if let Some(rest) = rest.filter(|rest| rest.starts_with('\n')) {
                    article.text = String::from(rest.trim_start());
                }
                return Ok(Some(article));
            }
            if article.text.len() + line.len() > LONGEST {
                return Err(Fault::Article(too_long(&article.title)));
            }
            article.text.push_str(&line);
        }
        Err(Fault::File(format!(
            "{:?} has no </doc>: the file was cut off",
            article.title
        )))
    }

    fn titled(&mut self) -> Result<Option<Article>, Fault> {
        let mut blank = true;
        while self.title.is_none() {
            let Some(line) = self.line()? else {
                return Ok(None);
            };
            self.title = title(&line).filter(|_| blank);
            blank = line.trim().is_empty();
        }
        let mut article = Article {
            title: self.title.take().unwrap_or_default(),
            ..Article::default()
        };
        let mut blank = false;
        while let Some(line) = self.line()? {
            self.title = title(&line).filter(|_| blank);
            if self.title.is_some() {
                break;
            }
            blank = line.trim().is_empty();
            if article.text.len() + line.len() <= LONGEST {
                article.text.push_str(&line);
            }
        }
        Ok(Some(article))
    }
}

impl Iterator for Extracted {
    type Item = Result<Article, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.docs { self.doc() } else { self.titled() }.transpose()
    }
}

pub(super) fn too_long(title: &str) -> String {
    format!("the article {title:?} is longer than {} MiB", LONGEST >> 20)
}

fn title(line: &str) -> Option<String> {
    let title = line.trim().strip_suffix([':', '：'])?.trim();
    (!title.is_empty() && title.chars().count() <= 100).then(|| title.to_owned())
}

fn doc_title(line: &str) -> Option<String> {
    let rest = line.strip_prefix("<doc ")?;
    let (_, rest) = rest.split_once("title=\"")?;
    // Titles may hold quotes; the tag ends the line.
    let (title, _) = rest
        .trim_end()
        .rsplit_once("\">")
        .or_else(|| rest.split_once('"'))?;
    Some(super::wikitext::entities(title))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn articles(text: &'static str, docs: bool) -> Vec<(String, String)> {
        let lines = Lines::of("x".into(), Box::new(text.as_bytes()));
        Extracted::new(lines, docs)
            .map(|article| article.unwrap_or_else(|_| panic!("a fault")))
            .map(|article| (article.title, article.text))
            .collect()
    }

    #[test]
    fn articles_of_both_forms() {
        let plain = "\n甲:\n一。\n\n二：\n三。\n\n\n乙：\n四\n";
        assert_eq!(
            articles(plain, false),
            [("甲", "一。\n\n"), ("二", "三。\n\n\n"), ("乙", "四\n")]
                .map(|(title, text)| (title.to_owned(), text.to_owned()))
        );
        let docs = "<doc id=\"1\" url=\"u\" title=\"甲 &quot;乙&quot;\">\n甲 \"乙\"\n\n一。\n</doc>\n<doc id=\"2\" title=\"丙\">\n二\n</doc>\n";
        assert_eq!(
            articles(docs, true),
            [("甲 \"乙\"", "一。\n"), ("丙", "二\n")]
                .map(|(title, text)| (title.to_owned(), text.to_owned()))
        );
        let cut = Lines::of("x".into(), Box::new("<doc title=\"丙\">\n二\n".as_bytes()));
        assert!(matches!(
            Extracted::new(cut, true).next().unwrap(),
            Err(Fault::File(_))
        ));
    }
}
