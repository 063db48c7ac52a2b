use std::{net::Ipv4Addr, net::SocketAddr};

use super::*;

const SHORT: Limits = Limits {
    connections: 6,
    of_a_peer: 4,
    head_within: Duration::from_secs(1),
    connection_within: Duration::from_secs(20),
    answer_within: Duration::from_secs(3),
    ..LIMITS
};

/// A server whose agent says the question's letter, or nothing to one about its health; what a test does with it.
fn with_server<T>(test: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (agent, gone) = Agent::new(ours, SHORT);
        tokio::spawn(gone);
        tokio::spawn(serve(listener, agent));
        tokio::spawn(async move {
            while let Ok(letter) = theirs.read_u8().await {
                if Question::of(letter) == Some(Question::Health) {
                    sleep(Duration::from_mins(1)).await;
                }
                theirs.write_u16(200).await.unwrap();
                theirs.write_u32(1).await.unwrap();
                theirs.write_u8(letter).await.unwrap();
            }
        });
        test(address).await
    })
}

async fn says(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // (who is cut off may have been sent a part)
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    says(&mut stream).await
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[test]
fn each_path_is_asked_of_the_agent() {
    with_server(async |address| {
        let metrics = get(address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200 "), "{metrics}");
        assert!(metrics.ends_with("\r\n\r\nm"), "{metrics}");
        assert!(metrics.contains("version=0.0.4"), "{metrics}");
        assert!(get(address, "/ready?x").await.ends_with("\r\n\r\nr"));
        let none = get(address, "/secrets").await;
        assert!(none.starts_with("HTTP/1.1 404 "), "{none}");
        let posted = ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
        let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    });
}

#[test]
fn an_agent_that_does_not_answer_is_told() {
    with_server(async |address| {
        let silent = get(address, "/healthz").await;
        assert!(silent.starts_with("HTTP/1.1 503 "), "{silent}");
        assert!(silent.ends_with("does not answer\n"), "{silent}");
    });
}

#[test]
fn a_head_has_a_size_and_a_time() {
    with_server(async |address| {
        let long = "x".repeat(LIMITS.head);
        let request = format!("GET /ready HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n");
        let refused = ask(address, &request).await;
        assert!(!refused.contains(" 200 "), "{refused}");
        let begun = Instant::now();
        let unfinished = ask(address, "GET /ready HTTP/1.1\r\nHost:").await;
        assert!(!unfinished.contains(" 200 "), "{unfinished}");
        let idle = ask(address, "").await;
        assert!(!idle.contains(" 200 "), "{idle}");
        assert!(begun.elapsed() < SHORT.connection_within);
    });
}

#[test]
fn who_comes_last_is_served_whoever_waits() {
    with_server(async |address| {
        let mut crowd = Vec::new();
        for _ in 0..40 {
            crowd.push(TcpStream::connect(address).await.unwrap());
            let ready = get(address, "/ready").await;
            assert!(ready.ends_with("\r\n\r\nr"), "{ready}");
        }
        // the oldest went, not by their time
        let begun = Instant::now();
        says(&mut crowd[0]).await;
        assert!(begun.elapsed() < SHORT.head_within);
    });
}

#[test]
fn those_who_ask_together_are_one_question() {
    with_server(async |address| {
        let begun = Instant::now();
        let mut all = Vec::new();
        for _ in 0..SHORT.of_a_peer {
            all.push(tokio::spawn(async move { get(address, "/metrics").await }));
        }
        for one in all {
            assert!(one.await.unwrap().ends_with('m'));
        }
        assert!(begun.elapsed() < SHORT.answer_within);
    });
}
