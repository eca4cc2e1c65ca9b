//! From a script's text to what is to be done.

use std::iter::Peekable;

use super::tokens::{self, Token, wrong};
use crate::io::Failure;

/// How deep commands may stand in each other.
const DEPTH_MAX: usize = 100;

pub type List = Vec<(When, Pipeline)>;

/// Whether a pipeline runs, after how the one before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    Succeeded,
    Failed,
}

#[derive(Debug)]
pub struct Pipeline {
    /// `!`
    pub not: bool,
    pub commands: Vec<Command>,
}

#[derive(Debug)]
pub struct Command {
    pub what: What,
    pub redirects: Vec<Redirect>,
}

#[derive(Debug)]
pub enum What {
    Simple(Vec<Word>),
    /// `{ …; }`, or with parentheses in surroundings of its own.
    Group {
        list: List,
        own: bool,
    },
    /// Conditions with what they lead to, and what is done otherwise.
    If {
        cases: Vec<(List, List)>,
        otherwise: Option<List>,
    },
    For {
        name: String,
        words: Option<Vec<Word>>,
        body: List,
    },
    While {
        condition: List,
        body: List,
        until: bool,
    },
}

#[derive(Debug)]
pub struct Redirect {
    pub from: u8,
    pub to: To,
}

#[derive(Debug)]
pub enum To {
    Read(Word),
    Write(Word),
    Append(Word),
    Same(u8),
}

/// A word before it is expanded.
#[derive(Clone, Debug, Default)]
pub struct Word(pub Vec<Piece>);

#[derive(Clone, Debug)]
pub struct Piece {
    pub what: Part,
    /// Within quotes nothing is split and no file names are found.
    pub quoted: bool,
}

#[derive(Clone, Debug)]
pub enum Part {
    Text(String),
    /// Name, and what stands for it where it is not set (`${NAME:-text}`).
    Variable(String, Option<Word>),
    /// `$(…)`
    Output(String),
}

pub fn parse(script: &str) -> Result<List, Failure> {
    let tokens = tokens::of(script)?;
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: 0 };
    let list = parser.list(&[])?;
    match parser.tokens.next() {
        None => Ok(list),
        Some(token) => Err(wrong(&shown(&token))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("\"{}\"", plain(word).unwrap_or_default()),
        Token::Operator(operator) | Token::Redirect(_, operator) => format!("\"{operator}\""),
    }
}

/// The text of a word that is nothing else and stands without quotes.
fn plain(word: &Word) -> Option<&str> {
    match word.0.as_slice() {
        [Piece { what: Part::Text(text), quoted: false }] => Some(text),
        _ => None,
    }
}

struct Parser {
    tokens: Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
}

impl Parser {
    /// Until one of these words, which is left.
    fn list(&mut self, ends: &[&str]) -> Result<List, Failure> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Failure::of("commands stand too deep in each other"));
        }
        let (mut list, mut when) = (List::new(), When::Always);
        loop {
            while self.is_operator(";") || self.is_operator("&") {
                self.tokens.next();
            }
            let ended = match self.tokens.peek() {
                None | Some(Token::Operator(")")) => true,
                Some(Token::Word(word)) => plain(word).is_some_and(|word| ends.contains(&word)),
                _ => false,
            };
            if ended {
                break;
            }
            list.push((when, self.pipeline()?));
            when = match self.tokens.peek() {
                Some(Token::Operator("&&")) => When::Succeeded,
                Some(Token::Operator("||")) => When::Failed,
                Some(Token::Operator(";" | "&")) => When::Always,
                _ => {
                    when = When::Always;
                    break;
                }
            };
            self.tokens.next();
        }
        self.depth -= 1;
        if when == When::Always { Ok(list) } else { Err(wrong("end of file")) }
    }

    fn is_operator(&mut self, wanted: &str) -> bool {
        matches!(self.tokens.peek(), Some(Token::Operator(operator)) if *operator == wanted)
    }

    fn is_word(&mut self, wanted: &str) -> bool {
        matches!(self.tokens.peek(), Some(Token::Word(word)) if plain(word) == Some(wanted))
    }

    fn expect(&mut self, wanted: &str) -> Result<(), Failure> {
        match self.tokens.next() {
            Some(Token::Word(word)) if plain(&word) == Some(wanted) => Ok(()),
            Some(Token::Operator(operator)) if operator == wanted => Ok(()),
            Some(token) => Err(wrong(&format!("{} (expecting \"{wanted}\")", shown(&token)))),
            None => Err(wrong(&format!("end of file (expecting \"{wanted}\")"))),
        }
    }

    fn pipeline(&mut self) -> Result<Pipeline, Failure> {
        let not = self.is_word("!");
        if not {
            self.tokens.next();
        }
        let mut commands = vec![self.command()?];
        while self.is_operator("|") {
            self.tokens.next();
            while self.is_operator(";") {
                self.tokens.next();
            }
            commands.push(self.command()?);
        }
        Ok(Pipeline { not, commands })
    }

    fn command(&mut self) -> Result<Command, Failure> {
        let first = match self.tokens.peek() {
            Some(Token::Word(word)) => plain(word).unwrap_or_default().to_owned(),
            Some(Token::Operator("(")) => "(".to_owned(),
            Some(Token::Redirect(..)) => String::new(),
            Some(other) => return Err(wrong(&shown(other))),
            None => return Err(wrong("end of file")),
        };
        let what = match first.as_str() {
            "(" => {
                self.tokens.next();
                let list = self.list(&[])?;
                self.expect(")")?;
                What::Group { list, own: true }
            }
            "{" => {
                self.tokens.next();
                let list = self.list(&["}"])?;
                self.expect("}")?;
                What::Group { list, own: false }
            }
            "if" => self.decision()?,
            "while" | "until" => {
                self.tokens.next();
                let condition = self.list(&["do"])?;
                What::While { condition, body: self.body()?, until: first == "until" }
            }
            "for" => self.each()?,
            "then" | "else" | "elif" | "fi" | "do" | "done" | "}" => return Err(wrong(&format!("\"{first}\""))),
            _ => return self.simple(),
        };
        let mut redirects = Vec::new();
        while let Some(Token::Redirect(..)) = self.tokens.peek() {
            redirects.push(self.redirect()?);
        }
        Ok(Command { what, redirects })
    }

    fn decision(&mut self) -> Result<What, Failure> {
        let mut cases = Vec::new();
        loop {
            // `if` or `elif`
            self.tokens.next();
            let condition = self.list(&["then"])?;
            self.expect("then")?;
            cases.push((condition, self.list(&["elif", "else", "fi"])?));
            if !self.is_word("elif") {
                break;
            }
        }
        let otherwise = match self.is_word("else") {
            true => {
                self.tokens.next();
                Some(self.list(&["fi"])?)
            }
            false => None,
        };
        self.expect("fi")?;
        Ok(What::If { cases, otherwise })
    }

    fn each(&mut self) -> Result<What, Failure> {
        self.tokens.next();
        let name = match self.tokens.next() {
            Some(Token::Word(word)) => plain(&word).map(str::to_owned),
            _ => None,
        };
        let name = name.ok_or_else(|| wrong("word after \"for\""))?;
        let mut words = None;
        if self.is_word("in") {
            self.tokens.next();
            let mut found = Vec::new();
            while let Some(Token::Word(_)) = self.tokens.peek() {
                if let Some(Token::Word(word)) = self.tokens.next() {
                    found.push(word);
                }
            }
            words = Some(found);
        }
        while self.is_operator(";") {
            self.tokens.next();
        }
        Ok(What::For { name, words, body: self.body()? })
    }

    fn body(&mut self) -> Result<List, Failure> {
        self.expect("do")?;
        let body = self.list(&["done"])?;
        self.expect("done")?;
        Ok(body)
    }

    fn simple(&mut self) -> Result<Command, Failure> {
        let (mut words, mut redirects) = (Vec::new(), Vec::new());
        loop {
            match self.tokens.peek() {
                Some(Token::Word(_)) => {
                    if let Some(Token::Word(word)) = self.tokens.next() {
                        words.push(word);
                    }
                }
                Some(Token::Redirect(..)) => redirects.push(self.redirect()?),
                _ => return Ok(Command { what: What::Simple(words), redirects }),
            }
        }
    }

    fn redirect(&mut self) -> Result<Redirect, Failure> {
        let (Some(Token::Redirect(from, operator)), Some(Token::Word(word))) = (self.tokens.next(), self.tokens.next())
        else {
            return Err(wrong("end of redirection"));
        };
        let to = match operator {
            "<" => To::Read(word),
            ">>" => To::Append(word),
            ">&" => To::Same(plain(&word).and_then(|number| number.parse().ok()).ok_or_else(|| wrong("redirection"))?),
            _ => To::Write(word),
        };
        Ok(Redirect { from, to })
    }
}
