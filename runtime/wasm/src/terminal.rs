//! A terminal's line discipline, as far as one needs it to type to a guest: lines are edited and echoed here, and an ended line
//! goes to the guest.
//!
//! Source of the keys: termios in canonical mode with `ICRNL`, `ECHO`, `ECHOE`, `ISIG` and `ONLCR`. Pure but for [`run`].
//! Absent on purpose: raw mode (WASI has no way to ask for it), windows sizes.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_cri::streams::CHUNKS_MAX;

/// Longest line that is kept for editing, as in Linux; what is typed beyond is dropped.
const LINE_MAX: usize = 4096;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL_LINE: u8 = 0x15;
const DELETE: u8 = 0x7f;

#[derive(Debug, Default)]
struct Line {
    typed: Vec<u8>,
}

/// What a keystroke comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Effect {
    echo: Vec<u8>,
    /// For the guest.
    input: Vec<u8>,
    interrupt: bool,
    end: bool,
}

impl Line {
    fn key(&mut self, key: u8, effect: &mut Effect) {
        match key {
            b'\r' | b'\n' => {
                effect.echo.extend_from_slice(b"\r\n");
                self.typed.push(b'\n');
                effect.input.append(&mut self.typed);
            }
            INTERRUPT => {
                effect.echo.extend_from_slice(b"^C\r\n");
                self.typed.clear();
                effect.interrupt = true;
            }
            END if self.typed.is_empty() => effect.end = true,
            END => effect.input.append(&mut self.typed),
            BACKSPACE | DELETE => self.erase(effect),
            KILL_LINE => {
                while !self.typed.is_empty() {
                    self.erase(effect);
                }
            }
            key if self.typed.len() < LINE_MAX => {
                self.typed.push(key);
                effect.echo.push(key);
            }
            _ => {}
        }
    }

    /// Takes the last character back, however many bytes it has.
    fn erase(&mut self, effect: &mut Effect) {
        let Some(last) = self.typed.pop() else { return };
        let mut byte = last;
        while byte & 0xc0 == 0x80 {
            match self.typed.pop() {
                Some(before) => byte = before,
                None => break,
            }
        }
        effect.echo.extend_from_slice(b"\x08 \x08");
    }
}

/// Stands between a client's keys and a guest's stdin. Ends when the client does, or with ^D; ^C cancels `interrupt`.
pub fn run(
    mut keys: mpsc::Receiver<Bytes>,
    screen: Option<mpsc::Sender<Bytes>>,
    interrupt: CancellationToken,
) -> mpsc::Receiver<Bytes> {
    let (to_guest, stdin) = mpsc::channel(CHUNKS_MAX);
    tokio::spawn(async move {
        let mut line = Line::default();
        loop {
            let chunk = tokio::select! {
                chunk = keys.recv() => chunk,
                () = to_guest.closed() => None,
            };
            let Some(chunk) = chunk else { return };
            let mut effect = Effect::default();
            chunk.iter().for_each(|key| line.key(*key, &mut effect));
            if let Some(screen) = screen.as_ref().filter(|_| !effect.echo.is_empty()) {
                let _ = screen.send(effect.echo.into()).await;
            }
            if effect.interrupt {
                return interrupt.cancel();
            }
            if !effect.input.is_empty() && to_guest.send(effect.input.into()).await.is_err() || effect.end {
                return;
            }
        }
    });
    stdin
}

/// `\n` moves a terminal down, not back.
pub fn on_screen(bytes: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for byte in bytes {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &str, echo: &str, input: &str, end: bool) {
        let (mut line, mut effect) = (Line::default(), Effect::default());
        keys.bytes().for_each(|key| line.key(key, &mut effect));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!((text(&effect.echo), text(&effect.input), effect.end), (echo.into(), input.into(), end));
    }

    #[test]
    fn lines_are_echoed_edited_and_sent_when_they_end() {
        check("ab", "ab", "", false);
        check("ab\r", "ab\r\n", "ab\n", false);
        check("ab\x7fc\n", "ab\x08 \x08c\r\n", "ac\n", false);
        check("é\x7f\n", "é\x08 \x08\r\n", "\n", false);
        check("ab\x15c\n", "ab\x08 \x08\x08 \x08c\r\n", "c\n", false);
        check("\x04", "", "", true);
        check("a\x04", "a", "a", false);
        check("a\x03b\n", "a^C\r\nb\r\n", "b\n", false);
    }
}
