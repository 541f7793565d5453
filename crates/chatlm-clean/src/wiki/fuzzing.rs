//! What [`crate::fuzzing`] shows of the readers of dumps.

use std::io::{self, BufRead, Read};

use super::bzip::Streams;
use super::dump::Dump;
use super::extracted::{Extracted, Lines};
use super::{Article, Fault};

/// A page as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub title: String,
    pub text: String,
    pub redirect: bool,
    pub namespace: i64,
}

/// The pages of a file and what was wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages {
    pub pages: Vec<Page>,
    /// Why nothing more could be read.
    pub broken: Option<String>,
    pub undecodable: u64,
}

fn gather(articles: &mut dyn Iterator<Item = Result<Article, Fault>>) -> Pages {
    let (mut pages, mut broken) = (Vec::new(), None);
    for article in articles {
        match article {
            Ok(article) => pages.push(Page {
                title: article.title,
                text: article.text,
                redirect: article.redirect,
                namespace: article.namespace,
            }),
            Err(Fault::Article(_)) => {}
            Err(Fault::File(what)) => {
                broken = Some(what);
                break;
            }
        }
    }
    Pages {
        pages,
        broken,
        undecodable: 0,
    }
}

pub(crate) fn dump(xml: Box<dyn Read + Send>) -> Pages {
    let mut dump = Dump::new(xml);
    let pages = gather(&mut dump);
    Pages {
        undecodable: dump.undecodable,
        ..pages
    }
}

pub(crate) fn extracted(text: Box<dyn BufRead + Send>, docs: bool) -> Pages {
    let mut extracted = Extracted::new(Lines::of("fuzz".into(), text), docs);
    let pages = gather(&mut extracted);
    Pages {
        undecodable: extracted.undecodable(),
        ..pages
    }
}

pub(crate) fn unpacked(file: impl Read + Send + 'static, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Streams::new(file).take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
