//! Words and signs of an expression.

use super::ExpressionError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword, a name, a number, an address, a network or a range.
    Word(&'a str),
    Sign(&'a str),
}

impl<'a> Token<'a> {
    pub(super) fn text(self) -> &'a str {
        match self {
            Self::Word(text) | Self::Sign(text) => text,
        }
    }
}

const SIGNS: [&str; 16] =
    ["&&", "||", "==", "!=", "<=", ">=", "(", ")", "[", "]", "!", "=", "<", ">", "&", "|"];

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ExpressionError> {
    let mut rest = text.trim_start();
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let length = match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => {
                tokens.push(Token::Sign(sign));
                sign.len()
            }
            None => {
                let length = rest.find(|character| !is_of_a_word(character)).unwrap_or(rest.len());
                if length == 0 {
                    return Err(ExpressionError::Sign(first));
                }
                tokens.push(Token::Word(&rest[..length]));
                length
            }
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// Addresses, networks, ranges and names with a hyphen are words.
const fn is_of_a_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | ':' | '/' | '-')
}
