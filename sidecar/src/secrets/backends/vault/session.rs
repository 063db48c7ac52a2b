//! Who we are to Vault: a token that is kept good, and everything that is asked with it.

use std::time::Duration;

use http::HeaderValue;
use secrecy::zeroize::Zeroizing;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::{
    PollPolicy, TrustError,
    answer::{self, Content, Grant},
    auth,
    fault::Fault,
    token::Token,
    transport::HttpTransport,
};
use crate::config::{Vault, VaultAuth};

/// See the module. The secrets of one Vault share one.
pub(crate) struct Session {
    line: HttpTransport,
    config: Vault,
    poll_policy: PollPolicy,
    token: Mutex<Option<Token>>,
}

impl Session {
    /// Asks nothing yet.
    pub(crate) fn new(config: &Vault, poll_policy: PollPolicy) -> Result<Self, TrustError> {
        Ok(Self {
            line: HttpTransport::new(config, poll_policy)?,
            config: config.clone(),
            poll_policy,
            token: Mutex::default(),
        })
    }

    /// What it is a session with.
    pub(crate) fn config(&self) -> &Vault {
        &self.config
    }

    pub(super) fn poll_policy(&self) -> &PollPolicy {
        &self.poll_policy
    }

    /// The secret at a path; `None`: there is none.
    pub(super) async fn read(&self, path: &str) -> Result<Option<Content>, Fault> {
        let token = self.token().await?;
        let mut answer = self.line.get(path, &token).await?;
        if answer.status == 403
            && let Some(token) = self.another_than(&token).await?
        {
            answer = self.line.get(path, &token).await?;
        }
        match answer.status {
            200 => answer::content(&answer.body),
            404 => Ok(None),
            status => Err(Fault::of_status(status)),
        }
    }

    /// Waits, and keeps the token good meanwhile.
    pub(super) async fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let due = self.token.lock().await.as_ref().and_then(Token::due);
            match due {
                Some(due) if due < end => {
                    sleep_until(due).await;
                    // What it says is told when the token is needed.
                    let _ = self.token().await;
                }
                _ => return sleep_until(end).await,
            }
        }
    }

    /// A token, as good as it can be.
    async fn token(&self) -> Result<HeaderValue, Fault> {
        let mut held = self.token.lock().await;
        if let VaultAuth::TokenFile(path) = &self.config.auth {
            match (auth::token(path), &*held) {
                (Ok(header), Some(token)) if token.header == header => {}
                (Ok(header), _) => *held = Some(self.look_up(header).await?),
                // The one we have may be good for a while.
                (Err(_), Some(_)) => {}
                (Err(fault), None) => return Err(fault),
            }
        }
        let mut token = match held.take() {
            Some(token) => token,
            None => self.log_in().await?,
        };
        if token.due().is_some_and(|due| due <= Instant::now())
            && let Err(fault) = self.prolong(&mut token).await
        {
            if token.has_ended() {
                return Err(fault);
            }
            let why = fault.tell("", &self.config);
            tracing::warn!("the token for Vault cannot be prolonged: {why}");
            token.put_off(Some(
                Instant::now() + self.poll_policy.retry_policy.retry_after_many,
            ));
        }
        let header = token.header.clone();
        *held = Some(token);
        Ok(header)
    }

    /// Another token than one that was refused, if there is another to be had.
    async fn another_than(&self, refused: &HeaderValue) -> Result<Option<HeaderValue>, Fault> {
        let mut held = self.token.lock().await;
        match &*held {
            Some(token) if token.header != *refused => return Ok(Some(token.header.clone())),
            Some(token) if token.since.elapsed() < self.poll_policy.login_apart => return Ok(None),
            _ => {}
        }
        let token = match &self.config.auth {
            VaultAuth::TokenFile(path) => match auth::token(path)? {
                header if header == *refused => return Ok(None),
                header => self.look_up(header).await?,
            },
            VaultAuth::Kubernetes(_) => self.log_in().await?,
        };
        let header = token.header.clone();
        *held = Some(token);
        Ok(Some(header))
    }

    /// Renews a token, or gets another.
    async fn prolong(&self, token: &mut Token) -> Result<(), Fault> {
        if token.is_renewable() {
            let path = "auth/token/renew-self";
            let nothing = Zeroizing::new(b"{}".to_vec());
            let answer = self.line.post(path, Some(&token.header), nothing).await?;
            match answer.status {
                200 => {
                    if token.renewed(&answer::grant(&answer.body)?, self.poll_policy.apart) {
                        return Ok(());
                    }
                }
                400..=404 => {}
                status => return Err(Fault::of_status(status)),
            }
        }
        match &self.config.auth {
            VaultAuth::Kubernetes(_) => *token = self.log_in().await?,
            VaultAuth::TokenFile(path) => {
                tracing::warn!(
                    "the token in {} cannot be renewed any longer: write another there before it ends",
                    path.display()
                );
                token.put_off(None);
            }
        }
        Ok(())
    }

    async fn log_in(&self) -> Result<Token, Fault> {
        let VaultAuth::Kubernetes(login) = &self.config.auth else {
            // (a file's token is there before anybody comes here)
            return Err(Fault::Credentials("there is no token".into()));
        };
        let path = format!("auth/{}/login", login.mount);
        let answer = self.line.post(&path, None, auth::login(login)?).await?;
        let grant = match answer.status {
            200 => answer::grant(&answer.body)?,
            status @ 400..=404 => return Err(Fault::Login(status)),
            status => return Err(Fault::of_status(status)),
        };
        let header = grant.token.clone().ok_or(Fault::Malformed)?;
        let Vault { address, .. } = &self.config;
        tracing::info!("logged in to Vault at {address} as the role {}", login.role);
        Ok(Token::new(header, Some(&grant), self.poll_policy.apart))
    }

    /// A file's token, and what Vault says of its lease. One that it says nothing of is taken as it is.
    async fn look_up(&self, header: HeaderValue) -> Result<Token, Fault> {
        let answer = self.line.get("auth/token/lookup-self", &header).await?;
        let grant: Option<Grant> = match answer.status {
            200 => Some(answer::looked_up(&answer.body)?),
            400..=404 => None,
            status => return Err(Fault::of_status(status)),
        };
        // One that cannot be renewed is kept good by whoever writes the file.
        let grant = grant.filter(|grant| grant.is_renewable);
        Ok(Token::new(header, grant.as_ref(), self.poll_policy.apart))
    }
}
