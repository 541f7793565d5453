//! The pipelines a tokenizer is trained with, and the special tokens in the order of their ids.

use std::str::FromStr;

use chatlm_job::{Code, Error, Result};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFKC;
use tokenizers::normalizers::replace::Replace;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::unicode_scripts::UnicodeScripts;
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper, Tokenizer};

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
    /// Pieces with probabilities after NFKC, a space being a mark; what no piece spells is bytes.
    Unigram,
    /// The same by merges.
    SentencePieceBpe,
}

impl Preset {
    /// Whether what the vocabulary lacks is spelled in tokens of bytes.
    pub(crate) fn spelled(self) -> bool {
        matches!(self, Self::Unigram | Self::SentencePieceBpe)
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "char-bpe" => Ok(Self::CharBpe),
            "byte-bpe" => Ok(Self::ByteBpe),
            "unigram" => Ok(Self::Unigram),
            "sentencepiece-bpe" => Ok(Self::SentencePieceBpe),
            _ => Err(Error::new(
                Code::Usage,
                format!("there is no tokenizer model called {name:?}"),
                "use char-bpe, byte-bpe, unigram or sentencepiece-bpe",
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
        Preset::Unigram | Preset::SentencePieceBpe => {
            let model = BPE::builder().unk_token(UNKNOWN.to_owned());
            let mut tokenizer = Tokenizer::new(model.fuse_unk(true).byte_fallback(true).build()?);
            tokenizer.with_normalizer(Some(NFKC))?;
            tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::First, true)));
            tokenizer.with_decoder(Some(byte_fallback_decoder(true)?));
            Ok(tokenizer)
        }
    }
}

/// Marks to spaces, byte tokens to characters, without the first space where the pipeline put it there.
pub(crate) fn byte_fallback_decoder(prefixed: bool) -> tokenizers::Result<DecoderWrapper> {
    let mut steps: Vec<DecoderWrapper> = vec![
        Replace::new("▁", " ")?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefixed {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(Decoders::new(steps).into())
}

/// What SentencePiece cuts at while it learns, and does not cut at while it encodes: scripts, so that no
/// piece holds Chinese and punctuation or letters at once.
pub(crate) fn while_learning() -> PreTokenizerWrapper {
    let metaspace = Metaspace::new('▁', PrependScheme::First, true);
    Sequence::new(vec![UnicodeScripts::new().into(), metaspace.into()]).into()
}

/// The token of each byte where a vocabulary falls back to bytes.
pub(crate) fn byte_tokens() -> impl Iterator<Item = String> {
    (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"))
}
