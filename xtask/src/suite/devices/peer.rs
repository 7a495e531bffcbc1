//! Who guests talk to over the emulator's network: a server on this host's own address that gives back what it is sent.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::explain::Explain as _;

/// A peer that has been silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(300);

/// The server; it serves for as long as xtask runs.
pub(super) struct Peer {
    /// TCP port, which guests reach at the emulator's gateway.
    pub(super) port: u16,
    received: Receiver<String>,
}

impl Peer {
    /// Listens on a free port for connections that bring so many bytes each.
    pub(super) fn start(bytes: usize) -> Result<Self, String> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            Ok::<_, io::Error>((listener, port))
        };
        let (listener, port) = listen().explain(|| "cannot listen on 127.0.0.1")?;
        let (sender, received) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || serve(stream, bytes, &sender));
            }
        });
        Ok(Self { port, received })
    }

    /// SHA-256 of what each connection brought so far.
    pub(super) fn sums(&self) -> Vec<String> {
        self.received.try_iter().collect()
    }
}

/// Takes all first: a sender that does not read meanwhile would wait for ever.
fn serve(mut stream: TcpStream, bytes: usize, sender: &Sender<String>) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut buffer = vec![0; bytes];
    stream.read_exact(&mut buffer)?;
    let _ = sender.send(sum(&buffer));
    stream.write_all(&buffer)
}

/// A SHA-256 in hexadecimal digits.
pub(super) fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_comes_back_and_is_summed_up() {
        let peer = Peer::start(3).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port)).unwrap();
        stream.write_all(b"abc").unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).unwrap();
        assert_eq!((back.as_str(), peer.sums()), ("abc", vec![sum(b"abc")]));
    }
}
