//! What a request on the admin port reaches, by its path.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, StatusCode, header};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

const PLAIN: &str = "text/plain; charset=utf-8";
/// Its text exposition format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Route = Arc<dyn Fn(Request<Body>) -> BoxFuture<Response<Body>, Infallible> + Send + Sync>;

/// What a page says now; `None` while it cannot be told.
pub type Page = Arc<dyn Fn() -> BoxFuture<Option<String>, Infallible> + Send + Sync>;

/// Cheap to clone; each connection has its own.
#[derive(Clone)]
pub struct Door {
    routes: Arc<[(&'static str, Route)]>,
    ready: watch::Receiver<bool>,
    metrics: Page,
}

/// The services behind a [`Door`], as they are added.
pub struct Routes(Vec<(&'static str, Route)>);

impl Routes {
    pub fn new() -> Routes {
        Routes(Vec::new())
    }

    pub fn with<S>(mut self, service: S) -> Routes
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        // Generated services are always ready, so a clone may be called at once.
        self.0.push((S::NAME, Arc::new(move |request| Box::pin(service.clone().call(request)))));
        self
    }

    pub fn door(self, ready: watch::Receiver<bool>, metrics: Page) -> Door {
        Door { routes: self.0.into(), ready, metrics }
    }
}

impl Service<Request<Body>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        if let Some((_, route)) = self.routes.iter().find(|(name, _)| Some(*name) == service) {
            return route(request);
        }
        let answer = match path {
            "/metrics" => {
                let told = (self.metrics)();
                return Box::pin(async move {
                    let Ok(text) = told.await;
                    Ok(match text {
                        Some(text) => page(StatusCode::OK, PROMETHEUS, text),
                        None => page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "stopping\n"),
                    })
                });
            }
            "/healthz" => page(StatusCode::OK, PLAIN, "ok\n"),
            "/readyz" if *self.ready.borrow() => page(StatusCode::OK, PLAIN, "ready\n"),
            "/readyz" => page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "starting, or cut off from the cluster\n"),
            _ if is_grpc(&request) => Status::unimplemented(format!("no service answers {path}")).into_http(),
            _ => page(
                StatusCode::NOT_FOUND,
                PLAIN,
                "gRPC (see reflection), /healthz, /readyz and /metrics are served here\n",
            ),
        };
        Box::pin(async move { Ok(answer) })
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

fn page(status: StatusCode, content: &'static str, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(door: &Door, path: &str, content: &str) -> Response<Body> {
        let request = Request::builder().uri(path).header(header::CONTENT_TYPE, content).body(Body::empty()).unwrap();
        let Ok(answer) = door.clone().call(request).await;
        answer
    }

    fn telling(text: Option<&'static str>) -> Page {
        Arc::new(move || Box::pin(async move { Ok(text.map(ToString::to_string)) }))
    }

    #[tokio::test]
    async fn the_metrics_are_prometheus_text_or_unavailable() {
        let (_ready, receiver) = watch::channel(true);
        let told = ask(&Routes::new().door(receiver.clone(), telling(Some("a 1\n"))), "/metrics", "").await;
        let content = told.headers()[header::CONTENT_TYPE].to_str().unwrap().to_string();
        assert_eq!((told.status().as_u16(), content.as_str()), (200, PROMETHEUS));
        assert_eq!(ask(&Routes::new().door(receiver, telling(None)), "/metrics", "").await.status(), 503);
    }

    #[tokio::test]
    async fn probes_follow_readiness_and_the_unknown_is_told_in_the_callers_tongue() {
        let (ready, receiver) = watch::channel(false);
        let door = Routes::new().door(receiver, telling(None));
        assert_eq!(ask(&door, "/healthz", "").await.status(), 200);
        assert_eq!(ask(&door, "/readyz", "").await.status(), 503);
        ready.send_replace(true);
        assert_eq!(ask(&door, "/readyz", "").await.status(), 200);
        assert_eq!(ask(&door, "/nothing", "").await.status(), 404);
        let grpc = ask(&door, "/some.Service/Call", "application/grpc").await;
        assert_eq!((grpc.status().as_u16(), grpc.headers()["grpc-status"].as_bytes()), (200, &b"12"[..]));
    }

    #[tokio::test]
    async fn a_service_is_found_by_its_whole_name() {
        let (_ready, receiver) = watch::channel(true);
        let (_reporter, health) = tonic_health::server::health_reporter();
        let door = Routes::new().with(health).door(receiver, telling(None));
        let served = ask(&door, "/grpc.health.v1.Health/Nope", "application/grpc").await;
        assert_eq!(served.headers()["grpc-status"].as_bytes(), b"12");
        assert_eq!(ask(&door, "/grpc.health.v1.Healthy/Check", "").await.status(), 404);
    }
}
