//! Frames of SPDY/3.1, as bytes and back. Source: SPDY/3 draft, 2.2 and 2.6.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Error;
use super::headers::{Decoder, Encoder, Headers};

/// Longest frame that is read.
const FRAME_MAX: usize = 4 << 20;
const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const ID: u32 = CONTROL - 1;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The peer opens a stream.
    Open {
        id: u32,
        headers: Headers,
        fin: bool,
    },
    /// A stream is taken.
    Reply {
        id: u32,
        headers: Headers,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    Data {
        id: u32,
        bytes: Bytes,
        fin: bool,
    },
    /// Settings, windows and whatever else says nothing here.
    Other,
}

/// The next frame; none at the end of the connection.
pub async fn read(io: &mut (impl AsyncRead + Unpin), decoder: &mut Decoder) -> Result<Option<Frame>, Error> {
    let mut head = [0; 8];
    match io.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(Error::Io(error)),
    }
    let (word, mut rest) = (u32::from_be_bytes([head[0], head[1], head[2], head[3]]), &head[4..]);
    let tail = rest.get_u32();
    let (flags, length) = ((tail >> 24) as u8, (tail & 0x00ff_ffff) as usize);
    if length > FRAME_MAX {
        return Err(Error::Frame("a frame is too long"));
    }
    let mut body = BytesMut::zeroed(length);
    io.read_exact(&mut body).await.map_err(Error::Io)?;
    let body = body.freeze();
    if word & CONTROL == 0 {
        return Ok(Some(Frame::Data { id: word & ID, bytes: body, fin: flags & FIN != 0 }));
    }
    if (word >> 16) as u16 & 0x7fff != VERSION {
        return Err(Error::Frame("a frame is of another version"));
    }
    control(word as u16, flags, body, decoder).map(Some)
}

fn control(kind: u16, flags: u8, mut body: Bytes, decoder: &mut Decoder) -> Result<Frame, Error> {
    let need = |least: usize, body: &Bytes| {
        if body.len() < least { Err(Error::Frame("a frame ends too early")) } else { Ok(()) }
    };
    Ok(match kind {
        SYN_STREAM => {
            need(10, &body)?;
            let id = body.get_u32() & ID;
            body.advance(6);
            Frame::Open { id, headers: decoder.read(&body)?, fin: flags & FIN != 0 }
        }
        SYN_REPLY => {
            need(4, &body)?;
            let id = body.get_u32() & ID;
            Frame::Reply { id, headers: decoder.read(&body)? }
        }
        RST_STREAM => {
            need(8, &body)?;
            Frame::Reset { id: body.get_u32() & ID, status: body.get_u32() }
        }
        PING => {
            need(4, &body)?;
            Frame::Ping { id: body.get_u32() }
        }
        GOAWAY => {
            need(4, &body)?;
            Frame::GoAway { last: body.get_u32() & ID }
        }
        _ => Frame::Other,
    })
}

impl Frame {
    pub fn write(&self, out: &mut BytesMut, encoder: &mut Encoder) -> Result<(), Error> {
        match self {
            Frame::Open { id, headers, fin } => {
                let block = encoder.write(headers)?;
                head(out, SYN_STREAM, u8::from(*fin), 10 + block.len());
                out.put_u32(*id);
                out.put_bytes(0, 6);
                out.put_slice(&block);
            }
            Frame::Reply { id, headers } => {
                let block = encoder.write(headers)?;
                head(out, SYN_REPLY, 0, 4 + block.len());
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::Reset { id, status } => {
                head(out, RST_STREAM, 0, 8);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                head(out, PING, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last } => {
                head(out, GOAWAY, 0, 8);
                out.put_u32(*last);
                out.put_u32(0);
            }
            Frame::Data { id, bytes, fin } => {
                out.put_u32(*id);
                out.put_u32(u32::from(*fin) << 24 | bytes.len() as u32);
                out.put_slice(bytes);
            }
            Frame::Other => {}
        }
        Ok(())
    }
}

fn head(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        let headers: Headers = [("streamtype".to_owned(), "data".to_owned())].into();
        let frames = [
            Frame::Open { id: 1, headers: headers.clone(), fin: false },
            Frame::Reply { id: 1, headers },
            Frame::Data { id: 1, bytes: Bytes::from_static(b"hello"), fin: true },
            Frame::Ping { id: 7 },
            Frame::Reset { id: 3, status: 5 },
            Frame::GoAway { last: 3 },
        ];
        let (mut out, mut encoder, mut decoder) = (BytesMut::new(), Encoder::default(), Decoder::default());
        frames.iter().for_each(|frame| frame.write(&mut out, &mut encoder).unwrap());
        let mut input = &out[..];
        for frame in frames {
            assert_eq!(read(&mut input, &mut decoder).await.unwrap(), Some(frame));
        }
        assert_eq!(read(&mut input, &mut decoder).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], &[0, 0, 0, 1, 0, 0xff, 0, 0]]
        {
            let mut input = bytes;
            assert!(read(&mut input, &mut Decoder::default()).await.is_err(), "{bytes:?}");
        }
    }
}
