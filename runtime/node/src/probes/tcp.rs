//! `tcpSocket`: success is a connection.

pub async fn probe(host: &str, port: u16) -> Result<(), String> {
    match tokio::net::TcpStream::connect((host, port)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("dial tcp {host}:{port}: connect: {error}")),
    }
}
