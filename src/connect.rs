//! The connection from a command to its cell.

mod patience;

pub(crate) use patience::is_unconnected;

use std::{error::Error, io, time::Duration};

use plenum_proto::bounds::{ANSWER_BYTES_MAX, CONNECTION_WINDOW_BYTES};
use plenum_proto::error::innermost;
use plenum_proto::v1::{
    cell_client::CellClient, govern_client::GovernClient, inspect_client::InspectClient, jobs_client::JobsClient,
};
use tonic::{Status, transport::Endpoint};

use self::patience::{Awaited, Patience, PatientChannel};
use crate::{address, failure::Failure, output::span_of};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A cell that is gone without a word is asked after so long, and noticed after three and a half times this, while something is asked of
/// it: whoever follows a log would wait for ever. Longer than [`patience`] with one answer, which says more about it.
const ALIVE_WITHIN: Duration = Duration::from_secs(20);

/// A connection to a cell; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    channel: PatientChannel,
}

impl Connection {
    /// Connects, or says why no cell answers.
    ///
    /// # Errors
    ///
    /// `USAGE` for an address that is none, `UNIMPLEMENTED` for TLS, `UNAVAILABLE` when nothing answers within 5 s.
    pub(crate) async fn open(address: &str) -> Result<Self, Failure> {
        Self::open_patiently(address, CONNECT_TIMEOUT, ALIVE_WITHIN).await
    }

    /// The same, within `limit` if that is shorter; says so when the server does not answer a call, and gives the call up after `limit`, or a minute;
    /// or after `all` that the command may take, where that is less. Streams may take as long as they like.
    ///
    /// # Errors
    ///
    /// As of [`Self::open`].
    pub(crate) async fn open_impatiently(
        address: &str,
        limit: Option<Duration>,
        all: Option<Duration>,
    ) -> Result<Self, Failure> {
        let within = limit.map_or(CONNECT_TIMEOUT, |limit| limit.min(CONNECT_TIMEOUT));
        let connection = Self::open_patiently(address, within, ALIVE_WITHIN).await?;
        Ok(connection.with_patience(Some(Patience::with(address, limit, all))))
    }

    async fn open_patiently(address: &str, within: Duration, alive_within: Duration) -> Result<Self, Failure> {
        let endpoint = endpoint(address)?
            .http2_keep_alive_interval(alive_within)
            .keep_alive_timeout(alive_within * 5 / 2)
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true);
        // That of the endpoint, which later connections have, begins once the address of a name is known.
        let connected = tokio::time::timeout(within, endpoint.connect()).await;
        let connected = connected
            .map_err(|_| Failure::unanswered(address, &format!("no connection within {}", span_of(within))))?;
        let channel = connected.map_err(|error| unconnected(address, &error))?;
        Ok(Self { channel: PatientChannel { channel, patience: None } })
    }

    /// The next part of a log that is not followed: given up as an answer is.
    ///
    /// # Errors
    ///
    /// As that part's, and `UNAVAILABLE` where it is given up.
    pub(crate) async fn part_of_log<T>(&self, part: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        self.part_of(Awaited::Log, part).await
    }

    /// The next part of a backup: given up as an answer is.
    ///
    /// # Errors
    ///
    /// As that part's, and `UNAVAILABLE` where it is given up.
    pub(crate) async fn part_of_backup<T>(&self, part: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        self.part_of(Awaited::Backup, part).await
    }

    async fn part_of<T>(&self, whole: Awaited, part: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match &self.channel.patience {
            Some(patience) => patience.wait(whole, part).await.flatten(),
            None => part.await,
        }
    }

    /// For who has a time limit of its own.
    pub(crate) fn patient(self) -> Self {
        self.with_patience(None)
    }

    fn with_patience(self, patience: Option<Patience>) -> Self {
        Self { channel: PatientChannel { patience, ..self.channel } }
    }

    pub(crate) fn jobs(&self) -> JobsClient<PatientChannel> {
        JobsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn inspect(&self) -> InspectClient<PatientChannel> {
        InspectClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn govern(&self) -> GovernClient<PatientChannel> {
        GovernClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn cell(&self) -> CellClient<PatientChannel> {
        CellClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// Why there is no connection: nobody refused it where its time was over.
fn unconnected(address: &str, error: &(dyn Error + 'static)) -> Failure {
    let is_elapsed = |cause: &(dyn Error + 'static)| {
        cause.is::<tokio::time::error::Elapsed>()
            || cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    };
    let why = innermost(error);
    match std::iter::successors(Some(error), |&cause| cause.source()).any(is_elapsed) {
        true => Failure::unanswered(address, &why),
        false => Failure::unreachable(address, &why),
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Failure> {
    address::uri(address).map(Endpoint::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::Ordering::Relaxed;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket, TcpStream},
    };

    use super::*;

    // A command waited for ever for a cell whose machine was gone, or whose server was stopped.
    #[tokio::test]
    async fn a_cell_that_says_nothing_is_not_waited_for_without_end() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let connection =
            Connection::open_patiently(&address, CONNECT_TIMEOUT, Duration::from_millis(100)).await.unwrap();
        let status = connection.inspect().status(plenum_proto::v1::StatusRequest {}).await.unwrap_err();
        let failure = Failure::from(status);
        assert_eq!(failure.code, "UNAVAILABLE", "{failure}");
        assert!(failure.message.starts_with("the connection to the cell broke: "), "{failure}");
    }

    // Who asked with a limit waited for the connection for five seconds all the same.
    #[tokio::test]
    async fn a_connection_is_waited_for_no_longer_than_an_answer() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // Nobody takes connections from its queue: once that is full the kernel answers no further one.
        let silent = socket.listen(1).unwrap();
        let address = silent.local_addr().unwrap();
        let limit = Duration::from_millis(50);
        let waiting: Vec<_> =
            (0..64).map_while(|_| std::net::TcpStream::connect_timeout(&address, limit).ok()).collect();
        let opened = Connection::open_impatiently(&address.to_string(), Some(limit), None).await;
        let failure = opened.map(drop).unwrap_err();
        assert_eq!(failure.code, "UNAVAILABLE", "{failure}");
        assert!(failure.message.ends_with("no connection within 50.0ms"), "{failure}, {} wait", waiting.len());
        let hint = failure.hint.unwrap();
        assert!(hint.contains("no place for another connection") && !hint.contains("start"), "{hint}");
    }

    // Of a server whose places for connections were taken it was said to start one.
    #[test]
    fn who_is_not_answered_in_time_is_not_told_to_start_a_server() {
        let hint = |kind, why| unconnected("127.0.0.1:1", &io::Error::new(kind, why)).hint.unwrap();
        assert!(hint(io::ErrorKind::TimedOut, "deadline has elapsed").contains("no place for another connection"));
        assert!(hint(io::ErrorKind::ConnectionRefused, "refused").contains("start one with `plenum dev`"));
    }

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    /// A frame of HTTP/2: three bytes of length, the kind, flags, and the stream's number come before what it says.
    fn frame(kind: u8, flags: u8, stream: u8, said: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(said.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(said);
        frame
    }

    /// Reads frames up to the first one of a kind.
    async fn read_to(kind: u8, stream: &mut TcpStream) {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            if head[3] == kind {
                return;
            }
        }
    }

    /// Reads from a client up to the message of its first request.
    async fn read_request(stream: &mut TcpStream) {
        const PREFACE_BYTES: usize = 24;
        stream.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        read_to(DATA, stream).await;
    }

    /// Begins to answer the first request, and waits until the client has read that.
    async fn begin_answer(stream: &mut TcpStream) {
        const END_HEADERS: u8 = 4;
        // In the table of HPACK.
        const STATUS_200: u8 = 0x88;
        let said = [
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &[STATUS_200]),
            // The client sends it back.
            frame(PING, 0, 0, &[0; 8]),
        ];
        stream.write_all(&said.concat()).await.unwrap();
        read_to(PING, stream).await;
    }

    /// The address of a server that reads one request, begins to answer it or doesn't, and is gone.
    async fn dying(answers: bool) -> String {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut stream = server.accept().await.unwrap().0;
            drop(server);
            read_request(&mut stream).await;
            if answers {
                begin_answer(&mut stream).await;
            }
        });
        address
    }

    /// The address of a server that reads one request, and has one answer for it.
    async fn answering(answer: &'static [u8]) -> String {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut stream = server.accept().await.unwrap().0;
            read_request(&mut stream).await;
            stream.write_all(answer).await.unwrap();
            std::future::pending::<()>().await;
        });
        address
    }

    // Of another program's address it was said that the connection broke, or that what was asked for is not built yet.
    #[tokio::test]
    async fn a_program_that_is_no_cell_is_told_from_a_cell_that_is_away() {
        const OLD_WEB: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\n";
        // Settings, none; then headers: of the first stream, which they end, with the status 404.
        const WEB: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 0, 0, 0, 1, 0x8d];
        for (answer, why) in [(OLD_WEB, "frame with invalid size"), (WEB, "404")] {
            let connection = Connection::open(&answering(answer).await).await.unwrap();
            let asked = connection.inspect().status(plenum_proto::v1::StatusRequest {}).await.unwrap_err();
            let connection = Connection::open(&answering(answer).await).await.unwrap();
            let changed = connection.jobs().stop(plenum_proto::v1::StopRequest::default()).await.unwrap_err();
            for failure in [Failure::from(asked), Failure::from(changed)] {
                assert_eq!(failure.code, "UNAVAILABLE", "{failure}");
                assert!(failure.message.starts_with("what answers at the address is no Plenum cell: "), "{failure}");
                assert!(failure.message.contains(why), "{failure}");
                assert!(failure.hint.unwrap().contains("--addr"), "an address is to be mended");
            }
        }
    }

    // Where the server died in the middle of a change, a command said that no cell answered, and to try again, as if nothing could have come of it.
    #[tokio::test]
    async fn a_change_whose_connection_broke_may_have_been_made_and_one_without_a_connection_was_not() {
        let stop = plenum_proto::v1::StopRequest::default;
        for answers in [false, true] {
            let connection = Connection::open(&dying(answers).await).await.unwrap();
            let failure = Failure::from(connection.jobs().stop(stop()).await.unwrap_err());
            let found = (failure.code.as_str(), failure.exit);
            assert_eq!(found, ("OUTCOME_UNKNOWN", crate::failure::EXIT_FAILED), "it began to answer: {answers}");
            let told = ["the connection to the cell broke: ", "may have been done"];
            assert!(told.iter().all(|words| failure.message.contains(words)), "{failure}");
            assert_eq!(failure.hint.as_deref(), Some("`plenum explain OUTCOME_UNKNOWN` tells more"));

            let connection = Connection::open(&dying(answers).await).await.unwrap();
            let asked = connection.inspect().status(plenum_proto::v1::StatusRequest {}).await.unwrap_err();
            assert_eq!(Failure::from(asked).code, "UNAVAILABLE", "it can be asked again");
        }

        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let channel = endpoint(&nobody).unwrap().connect_lazy();
        let connection = Connection { channel: PatientChannel { channel, patience: None } };
        let failure = Failure::from(connection.jobs().stop(stop()).await.unwrap_err());
        assert_eq!(failure.code, "UNAVAILABLE", "{failure}");
    }

    // A command said nothing for as long as a stopped server took its connection.
    #[tokio::test]
    async fn a_server_that_does_not_answer_is_told_and_given_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let (told_after, given_up_after) = (Duration::from_millis(20), Duration::from_millis(200));
        let patience = Patience { told_after, given_up_after, ..Patience::with(&address, None, None) };
        let told = patience.told.clone();
        let connection = Connection::open(&address).await.unwrap().with_patience(Some(patience));
        let mut jobs = connection.jobs();
        let following = jobs.logs(plenum_proto::v1::LogsRequest::default());
        assert!(tokio::time::timeout(2 * given_up_after, following).await.is_err(), "a stream is not cut");
        assert!(!told.load(Relaxed));
        let status = connection.inspect().status(plenum_proto::v1::StatusRequest {}).await.unwrap_err();
        let failure = Failure::from(status);
        assert_eq!((failure.code.as_str(), failure.exit), ("UNAVAILABLE", crate::failure::EXIT_FAILED));
        assert!(failure.message.contains(&address) && failure.message.contains("within 200.0ms"), "{failure}");
        assert!(told.load(Relaxed));
        let stop = plenum_proto::v1::StopRequest::default();
        let failure = Failure::from(connection.jobs().stop(stop).await.unwrap_err());
        assert_eq!((failure.code.as_str(), failure.exit), ("OUTCOME_UNKNOWN", crate::failure::EXIT_FAILED));
        let log = connection.part_of_log(std::future::pending::<Result<(), Status>>());
        let failure = Failure::from(log.await.unwrap_err());
        assert!(failure.code == "UNAVAILABLE" && failure.message.contains("nothing more of the log"), "{failure}");
        let backup = connection.part_of_backup(std::future::pending::<Result<(), Status>>());
        let failure = Failure::from(backup.await.unwrap_err());
        assert!(failure.code == "UNAVAILABLE" && failure.message.contains("nothing more of the backup"), "{failure}");
    }
}
