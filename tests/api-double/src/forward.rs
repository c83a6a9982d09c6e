//! Port-forward as the API server does it: a WebSocket, on which each port has a channel for its bytes and one for errors, named
//! by the first byte of every message.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// The headers of a right answer; `None` where nothing was asked that could be answered so.
pub(crate) fn switch(request: &Request<Incoming>) -> Option<HeaderMap> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY)?;
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    Some(
        [
            (UPGRADE, HeaderValue::from_static("websocket")),
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (SEC_WEBSOCKET_ACCEPT, accepted),
            (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io")),
        ]
        .into_iter()
        .collect(),
    )
}

/// Carries one port's bytes until an end closes, or all connections are cut.
pub(crate) async fn carry(
    request: Request<Incoming>,
    port: u16,
    to: SocketAddr,
    mut cut: watch::Receiver<u64>,
) {
    let carried = async {
        let upgraded: Upgraded = hyper::upgrade::on(request).await.context("no upgrade")?;
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        between(socket, port, to).await
    };
    tokio::select! {
        // The client sees how it ends.
        _ = carried => {}
        _ = cut.changed() => {}
    }
}

async fn between(socket: WebSocketStream<TokioIo<Upgraded>>, port: u16, to: SocketAddr) -> Result<()> {
    let (mut messages, mut incoming) = socket.split();
    let [low, high] = port.to_le_bytes();
    for channel in [0, 1] {
        messages.send(Message::binary(vec![channel, low, high])).await?;
    }
    let stream = match TcpStream::connect(to).await {
        Ok(stream) => stream,
        Err(error) => {
            let text = format!("error forwarding port {port}: {error}");
            messages.send(Message::binary([&[1], text.as_bytes()].concat())).await?;
            return Ok(());
        }
    };
    let (mut from, mut into) = stream.into_split();
    let mut buffer = vec![0; CHUNK];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read? {
                0 => return Ok(messages.close().await?),
                length => messages.send(Message::binary([&[0], &buffer[..length]].concat())).await?,
            },
            message = incoming.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&0) => into.write_all(&bytes[1..]).await?,
                Some(Ok(Message::Close(_))) | Some(Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
}
