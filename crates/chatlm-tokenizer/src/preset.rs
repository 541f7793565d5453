//! The two pipelines a tokenizer is trained with, and the special tokens in the order of their ids.

use std::str::FromStr;

use chatlm_job::{Code, Error, Result};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFKC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// Ids 0 to 6, as in the reference program.
pub const SPECIAL_TOKENS: [&str; 7] = [
    "[PAD]", "[EOS]", "[SEP]", "[BOS]", "[CLS]", "[MASK]", "[UNK]",
];

/// The token for what the vocabulary lacks.
pub(crate) const UNKNOWN: &str = "[UNK]";

/// How text becomes symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Characters after NFKC; a character never seen is `[UNK]`.
    CharBpe,
    /// Bytes; every text can be encoded and comes back as it was.
    ByteBpe,
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "char-bpe" => Ok(Self::CharBpe),
            "byte-bpe" => Ok(Self::ByteBpe),
            _ => Err(Error::new(
                Code::Usage,
                format!("there is no tokenizer model called {name:?}"),
                "use char-bpe or byte-bpe",
            )),
        }
    }
}

/// The special tokens as the tokenizers crate wants them.
pub(crate) fn special_tokens() -> Vec<AddedToken> {
    SPECIAL_TOKENS
        .iter()
        .map(|token| AddedToken::from(*token, true))
        .collect()
}

/// An untrained tokenizer of the preset.
pub(crate) fn untrained(preset: Preset) -> tokenizers::Result<Tokenizer> {
    match preset {
        Preset::CharBpe => {
            // The reference prepends the space mark to every piece between punctuation and digits,
            // so that its decoder puts spaces around them ("你好 ， 世界"). Only the first piece
            // gets the mark here: text comes back as it was, up to NFKC and one leading space, and
            // but for a first character that NFKC takes apart ("㈠" comes back as "( 一 )").
            let metaspace = || Metaspace::new('▁', PrependScheme::First, true);
            let model = BPE::builder().unk_token(UNKNOWN.to_owned()).build()?;
            let mut tokenizer = Tokenizer::new(model);
            tokenizer.with_normalizer(Some(NFKC))?;
            tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
                Punctuation::default().into(),
                Digits::new(true).into(),
                metaspace().into(),
            ])));
            tokenizer.with_decoder(Some(metaspace()));
            Ok(tokenizer)
        }
        Preset::ByteBpe => {
            let mut tokenizer = Tokenizer::new(BPE::default());
            tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
            tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
            tokenizer.with_post_processor(Some(ByteLevel::new(false, false, true)));
            Ok(tokenizer)
        }
    }
}
