//! From a script's text to its words and operators.

use std::iter::Peekable;
use std::str::Chars;

use super::parse::{Part, Piece, Word};
use crate::io::Failure;

#[derive(Debug)]
pub enum Token {
    Word(Word),
    Operator(&'static str),
    Redirect(u8, &'static str),
}

/// Operators, the longer first.
const OPERATORS: [&str; 8] = ["&&", "||", ";;", ";", "|", "&", "(", ")"];
const REDIRECTS: [&str; 4] = [">>", ">&", ">", "<"];

/// All tokens of a script.
pub fn of(script: &str) -> Result<Vec<Token>, Failure> {
    Tokens { letters: script.chars().peekable() }.all()
}

pub fn wrong(what: &str) -> Failure {
    Failure::usage(format!("syntax error: unexpected {what}"))
}

struct Tokens<'a> {
    letters: Peekable<Chars<'a>>,
}

impl Tokens<'_> {
    fn all(mut self) -> Result<Vec<Token>, Failure> {
        let mut tokens = Vec::new();
        while let Some(&letter) = self.letters.peek() {
            match letter {
                '\n' => {
                    self.letters.next();
                    tokens.push(Token::Operator(";"));
                }
                letter if letter.is_whitespace() => drop(self.letters.next()),
                '#' => while self.letters.next_if(|letter| *letter != '\n').is_some() {},
                '0'..='9' => {
                    let mut ahead = self.letters.clone();
                    ahead.next();
                    match ahead.peek() {
                        Some('<' | '>') => {
                            self.letters.next();
                            let from = letter as u8 - b'0';
                            tokens.push(self.redirect(Some(from))?);
                        }
                        _ => tokens.push(Token::Word(self.word()?)),
                    }
                }
                '<' | '>' => tokens.push(self.redirect(None)?),
                _ => match OPERATORS.iter().find(|operator| self.take(operator)) {
                    Some(operator) => tokens.push(Token::Operator(operator)),
                    None => tokens.push(Token::Word(self.word()?)),
                },
            }
        }
        Ok(tokens)
    }

    fn take(&mut self, text: &str) -> bool {
        let mut ahead = self.letters.clone();
        let found = text.chars().all(|letter| ahead.next() == Some(letter));
        if found {
            self.letters = ahead;
        }
        found
    }

    fn redirect(&mut self, from: Option<u8>) -> Result<Token, Failure> {
        if self.take("<<") {
            return Err(Failure::usage("here-documents are not known here"));
        }
        let operator =
            REDIRECTS.into_iter().find(|operator| self.take(operator)).ok_or_else(|| wrong("redirection"))?;
        Ok(Token::Redirect(from.unwrap_or(u8::from(operator != "<")), operator))
    }

    fn word(&mut self) -> Result<Word, Failure> {
        let mut word = Word::default();
        while let Some(&letter) = self.letters.peek() {
            match letter {
                letter if letter.is_whitespace() || ";|&()<>".contains(letter) => break,
                '\'' => {
                    self.letters.next();
                    let mut text = String::new();
                    loop {
                        match self.letters.next().ok_or_else(|| wrong("end of file in quotes"))? {
                            '\'' => break,
                            letter => text.push(letter),
                        }
                    }
                    word.0.push(Piece { what: Part::Text(text), quoted: true });
                }
                '"' => {
                    self.letters.next();
                    self.quoted(&mut word)?;
                }
                '$' | '`' => {
                    let what = self.dollar()?;
                    word.0.push(Piece { what, quoted: false });
                }
                '\\' => {
                    self.letters.next();
                    match self.letters.next() {
                        None | Some('\n') => {}
                        Some(letter) => word.0.push(Piece { what: Part::Text(letter.to_string()), quoted: true }),
                    }
                }
                letter => {
                    self.letters.next();
                    match word.0.last_mut() {
                        Some(Piece { what: Part::Text(text), quoted: false }) => text.push(letter),
                        _ => word.0.push(Piece { what: Part::Text(letter.to_string()), quoted: false }),
                    }
                }
            }
        }
        Ok(word)
    }

    fn quoted(&mut self, word: &mut Word) -> Result<(), Failure> {
        let mut text = String::new();
        loop {
            match self.letters.peek().copied().ok_or_else(|| wrong("end of file in quotes"))? {
                '"' => {
                    self.letters.next();
                    word.0.push(Piece { what: Part::Text(text), quoted: true });
                    return Ok(());
                }
                '$' | '`' => {
                    word.0.push(Piece { what: Part::Text(std::mem::take(&mut text)), quoted: true });
                    let what = self.dollar()?;
                    word.0.push(Piece { what, quoted: true });
                }
                '\\' => {
                    self.letters.next();
                    match self.letters.next() {
                        Some(letter @ ('"' | '$' | '\\' | '`')) => text.push(letter),
                        Some('\n') | None => {}
                        Some(letter) => text.extend(['\\', letter]),
                    }
                }
                letter => {
                    self.letters.next();
                    text.push(letter);
                }
            }
        }
    }

    /// What a dollar begins.
    fn dollar(&mut self) -> Result<Part, Failure> {
        if self.letters.next() == Some('`') {
            return self.until('`', None).map(Part::Output);
        }
        let is_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
        match self.letters.peek().copied() {
            Some('(') => {
                self.letters.next();
                self.until(')', Some('(')).map(Part::Output)
            }
            Some('{') => {
                self.letters.next();
                let inside = self.until('}', Some('{'))?;
                match inside.split_once(":-").or_else(|| inside.split_once('-')) {
                    Some((name, other)) => {
                        let word = Tokens { letters: format!("\"{other}\"").chars().peekable() }.word()?;
                        Ok(Part::Variable(name.to_owned(), Some(word)))
                    }
                    None => Ok(Part::Variable(inside, None)),
                }
            }
            Some(letter @ ('?' | '#' | '@' | '*' | '$' | '0'..='9')) => {
                self.letters.next();
                Ok(Part::Variable(letter.to_string(), None))
            }
            Some(letter) if is_name(&letter) => {
                let mut name = String::new();
                while let Some(letter) = self.letters.next_if(|letter| is_name(letter)) {
                    name.push(letter);
                }
                Ok(Part::Variable(name, None))
            }
            _ => Ok(Part::Text("$".to_owned())),
        }
    }

    /// The text before `end`; what `nests` opens must be closed first.
    fn until(&mut self, end: char, nests: Option<char>) -> Result<String, Failure> {
        let (mut text, mut depth, mut quote) = (String::new(), 0, None);
        loop {
            let letter = self.letters.next().ok_or_else(|| wrong("end of file"))?;
            match (quote, letter) {
                (None, '\'' | '"') if end != '`' => quote = Some(letter),
                (Some(open), letter) if open == letter => quote = None,
                (None, letter) if letter == end && depth == 0 => return Ok(text),
                (None, letter) if letter == end => depth -= 1,
                (None, letter) if Some(letter) == nests => depth += 1,
                _ => {}
            }
            text.push(letter);
        }
    }
}
