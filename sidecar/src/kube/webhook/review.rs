//! An `AdmissionReview` in, an `AdmissionReview` out: a pod's JSON patch, or why there is none.

use kube_core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
};
use serde_json::Value;

use crate::kube::inject;

/// What an annotation of the audit log tells of us: `injected`, `unchanged` or `refused`.
const AUDIT: &str = "sidecar";

/// Answers a review. The error says why it is none; the API server then does as `failurePolicy` says.
pub(super) fn answer(body: &[u8], sidecar: &inject::Options) -> Result<Vec<u8>, String> {
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body).map_err(|error| {
        format!(
            "not an AdmissionReview of admission.k8s.io/v1, in line {} column {}: ask only the API server to call this",
            error.line(),
            error.column()
        )
    })?;
    let request: AdmissionRequest<DynamicObject> = review
        .try_into()
        .map_err(|_| "an AdmissionReview without a request".to_owned())?;
    let response = respond(&request, sidecar);
    serde_json::to_vec(&response.into_review()).map_err(|error| error.to_string())
}

fn respond(
    request: &AdmissionRequest<DynamicObject>,
    sidecar: &inject::Options,
) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let is_pod = request.kind.group.is_empty()
        && request.kind.kind == "Pod"
        && request.sub_resource.is_none();
    let Some(pod) = request
        .object
        .as_ref()
        .filter(|_| is_pod && request.operation == Operation::Create)
    else {
        return told(response, "unchanged");
    };
    let planned = serde_json::to_value(pod)
        .map_err(|error| error.to_string())
        .and_then(|pod: Value| inject::patch(&pod, sidecar));
    // The name of a Deployment's pod is not made yet: what it begins with is.
    let metadata = &pod.metadata;
    let name = metadata
        .name
        .as_ref()
        .or(metadata.generate_name.as_ref())
        .map_or("", String::as_str);
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let (patch, notes) = match planned {
        Ok(planned) => planned,
        Err(why) => {
            tracing::warn!(name, namespace, "refused: {why}");
            return told(
                response.deny(format!("kernelseal cannot stand beside this pod: {why}")),
                "refused",
            );
        }
    };
    if patch.0.is_empty() {
        return told(response, "unchanged");
    }
    tracing::info!(name, namespace, "the sidecar is added");
    match response.with_patch(patch) {
        Ok(mut response) => {
            response.warnings = (!notes.is_empty()).then_some(notes);
            told(response, "injected")
        }
        Err(error) => told(AdmissionResponse::from(request).deny(error), "refused"),
    }
}

fn told(mut response: AdmissionResponse, what: &str) -> AdmissionResponse {
    response.audit_annotations.insert(AUDIT.into(), what.into());
    response
}
