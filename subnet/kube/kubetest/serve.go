package kubetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
)

// codec speaks the wire's languages.
type codec struct {
	factory runtime.NegotiatedSerializer
	decoder runtime.Decoder
}

func newCodec() codec {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	scheme.AddKnownTypes(corev1.SchemeGroupVersion,
		&corev1.Node{}, &corev1.NodeList{}, &corev1.Pod{}, &corev1.Event{}, &metav1.Status{})
	scheme.AddKnownTypes(authv1.SchemeGroupVersion, &authv1.SelfSubjectAccessReview{})
	factory := serializer.NewCodecFactory(scheme)
	return codec{factory.WithoutConversion(), factory.UniversalDeserializer()}
}

// pick gives the language of an answer: the first of those asked for that we
// speak.
func (c codec) pick(accept string, jsonOnly bool) runtime.SerializerInfo {
	for part := range strings.SplitSeq(accept, ",") {
		media, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		if jsonOnly && media != runtime.ContentTypeJSON {
			continue
		}
		if info, ok := runtime.SerializerInfoForMediaType(c.factory.SupportedMediaTypes(), media); ok {
			return info
		}
	}
	info, _ := runtime.SerializerInfoForMediaType(c.factory.SupportedMediaTypes(), runtime.ContentTypeJSON)
	return info
}

// encode works on a copy: the encoder writes the kind into what it is given.
func (c codec) encode(info runtime.SerializerInfo, o runtime.Object) ([]byte, error) {
	var out bytes.Buffer
	err := c.factory.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion).Encode(o.DeepCopyObject(), &out)
	return out.Bytes(), err
}

// failure is an answer other than success.
type failure struct {
	code    int
	reason  metav1.StatusReason
	message string
	cause   metav1.CauseType
	retry   int // seconds after which to ask again; 0 says nothing
}

func (f *failure) Error() string { return f.message }

func (f *failure) status() *metav1.Status {
	out := &metav1.Status{Status: metav1.StatusFailure, Code: int32(f.code), Reason: f.reason, Message: f.message}
	if f.cause != "" {
		out.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: f.cause, Message: f.message}}}
	}
	if f.retry > 0 {
		out.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(f.retry)}
	}
	return out
}

func fail(code int, reason metav1.StatusReason, format string, args ...any) error {
	return &failure{code: code, reason: reason, message: fmt.Sprintf(format, args...)}
}

// request is one request, taken apart.
type request struct {
	verb, resource  string // "patch", "nodes/status"
	namespace, name string
	query           url.Values
	body            []byte
}

// parseRequest knows /api/v1/RESOURCE[/NAME[/SUBRESOURCE]], with or without a
// namespace, and reviews of what one may do.
func parseRequest(r *http.Request) (request, error) {
	q := request{query: r.URL.Query()}
	rest, ok := strings.CutPrefix(r.URL.Path, "/api/v1/")
	if !ok {
		rest, ok = strings.CutPrefix(r.URL.Path, "/apis/authorization.k8s.io/v1/")
	}
	parts := strings.Split(rest, "/")
	if !ok {
		return q, fail(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find %s", r.URL.Path)
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		q.namespace, parts = parts[1], parts[2:]
	}
	q.resource = parts[0]
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 {
		q.resource += "/" + parts[2]
	}
	q.verb = map[string]string{http.MethodGet: "list", http.MethodPatch: "patch", http.MethodPost: "create"}[r.Method]
	switch {
	case q.query.Get("watch") == "true" || q.query.Get("watch") == "1":
		q.verb = "watch"
	case q.verb == "list" && q.name != "":
		q.verb = "get"
	}
	var err error
	q.body, err = io.ReadAll(r.Body)
	return q, err
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	info := s.codec.pick(r.Header.Get("Accept"), s.jsonOnly)
	w.Header().Set("Date", time.Now().Add(s.skew).UTC().Format(http.TimeFormat))
	s.mu.Unlock()
	q, err := parseRequest(r)
	if err == nil {
		err = s.admit(q)
	}
	if err == nil && q.verb == "watch" {
		err = s.watch(w, r, q, info)
		if err == nil {
			return
		}
	}
	var out runtime.Object
	if err == nil {
		out, err = s.answer(r, q)
	}
	code := http.StatusOK
	if bad := (*failure)(nil); errors.As(err, &bad) {
		code, out = bad.code, bad.status()
		if bad.retry > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(bad.retry))
		}
	} else if err != nil {
		code = http.StatusBadRequest
		out = (&failure{code: code, reason: metav1.StatusReasonBadRequest, message: err.Error()}).status()
	}
	body, err := s.codec.encode(info, out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", info.MediaType)
	w.WriteHeader(code)
	_, _ = w.Write(body) // the client went away
}

// admit counts a request, and refuses what is forbidden.
func (s *Server) admit(q request) error {
	what := q.verb + " " + q.resource
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
	switch code := s.refused[what]; code {
	case 0:
		return nil
	case http.StatusForbidden:
		return fail(code, metav1.StatusReasonForbidden,
			`%s is forbidden: User "weft" cannot %s resource %q in API group "" at the cluster scope`,
			q.resource, q.verb, q.resource)
	case http.StatusUnauthorized:
		return fail(code, metav1.StatusReasonUnauthorized, "Unauthorized")
	case http.StatusTooManyRequests:
		return &failure{code: code, reason: metav1.StatusReasonTooManyRequests, message: "too many requests", retry: 1}
	default:
		return fail(code, metav1.StatusReasonInternalError, "the server is not well")
	}
}

func (s *Server) answer(r *http.Request, q request) (out runtime.Object, err error) {
	s.update(func() {
		switch q.verb + " " + q.resource {
		case "list nodes":
			out, err = s.list(q)
		case "get nodes":
			out, err = s.node(q.name)
		case "patch nodes/status":
			out, err = s.patch(r.Header.Get("Content-Type"), q)
		case "get pods":
			node, found := s.pods[q.namespace+"/"+q.name]
			out = &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: q.name, Namespace: q.namespace}, Spec: corev1.PodSpec{NodeName: node},
			}
			if !found {
				err = fail(http.StatusNotFound, metav1.StatusReasonNotFound, "pods %q not found", q.name)
			}
		case "create events":
			out, err = s.event(q)
		case "create selfsubjectaccessreviews":
			out, err = s.review(q)
		default:
			err = fail(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "%s %s", q.verb, q.resource)
		}
	})
	return out, err
}

func (s *Server) list(q request) (runtime.Object, error) {
	since, _ := strconv.ParseInt(q.query.Get("resourceVersion"), 10, 64)
	if since > s.revision {
		return nil, &failure{
			code: http.StatusGatewayTimeout, reason: metav1.StatusReasonTimeout, message: "Too large resource version",
			cause: metav1.CauseTypeResourceVersionTooLarge,
		}
	}
	out := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(s.revision)}}
	limit, _ := strconv.Atoi(q.query.Get("limit"))
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		if name <= q.query.Get("continue") {
			continue
		}
		if limit > 0 && len(out.Items) == limit {
			out.Continue = out.Items[limit-1].Name
			break
		}
		out.Items = append(out.Items, *s.nodes[name])
	}
	return out, nil
}

func (s *Server) node(name string) (*corev1.Node, error) {
	n := s.nodes[name]
	if n == nil {
		return nil, fail(http.StatusNotFound, metav1.StatusReasonNotFound, "nodes %q not found", name)
	}
	return n, nil
}

func (s *Server) event(q request) (runtime.Object, error) {
	o, _, err := s.codec.decoder.Decode(q.body, nil, nil)
	e, ok := o.(*corev1.Event)
	if err != nil || !ok || e.Namespace != q.namespace {
		return nil, fmt.Errorf("not an Event in %s: %w", q.namespace, err)
	}
	s.events = append(s.events, *e)
	return e, nil
}

// patch merges what weft patches: annotations, and conditions by their type.
// Anything else is refused, as a real server's RBAC and strategy would.
func (s *Server) patch(contentType string, q request) (runtime.Object, error) {
	if contentType != "application/strategic-merge-patch+json" {
		return nil, fail(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, "%s", contentType)
	}
	var p struct {
		Metadata struct {
			Annotations     map[string]*string `json:"annotations"`
			ResourceVersion string             `json:"resourceVersion"`
		} `json:"metadata"`
		Status struct {
			Conditions []json.RawMessage `json:"conditions"`
		} `json:"status"`
	}
	dec := json.NewDecoder(bytes.NewReader(q.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, err
	}
	have, err := s.node(q.name)
	if err != nil {
		return nil, err
	}
	if v := p.Metadata.ResourceVersion; v != "" && v != have.ResourceVersion {
		return nil, fail(http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified")
	}
	n := have.DeepCopy()
	for key, value := range p.Metadata.Annotations {
		if value == nil {
			delete(n.Annotations, key)
			continue
		}
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[key] = *value
	}
	for _, raw := range p.Status.Conditions {
		var kind struct{ Type corev1.NodeConditionType }
		if err := json.Unmarshal(raw, &kind); err != nil {
			return nil, err
		}
		at := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind.Type })
		if at < 0 {
			at = len(n.Status.Conditions)
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{})
		}
		if err := json.Unmarshal(raw, &n.Status.Conditions[at]); err != nil { // merges into what is there
			return nil, err
		}
	}
	s.put(watch.Modified, n)
	return n, nil
}

// watch answers until the client goes or the time is over.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, q request, info runtime.SerializerInfo) error {
	stream := q.query.Get("sendInitialEvents") == "true"
	s.mu.Lock()
	refused := stream && s.noStream
	s.mu.Unlock()
	if refused {
		return fail(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid,
			"sendInitialEvents: Forbidden: is forbidden for watch unless the WatchList feature gate is enabled")
	}
	life := time.Hour
	if seconds, err := strconv.Atoi(q.query.Get("timeoutSeconds")); err == nil && seconds > 0 {
		life = time.Duration(seconds) * time.Second
	}
	over := time.NewTimer(life)
	defer over.Stop()
	w.Header().Set("Content-Type", info.MediaType+";stream=watch")
	w.WriteHeader(http.StatusOK)
	out := sender{s: s, info: info, to: w}
	since, _ := strconv.ParseInt(q.query.Get("resourceVersion"), 10, 64)
	s.count(1)
	defer s.count(-1)
	for at := int64(-1); ; {
		var batch []event
		s.mu.Lock()
		changed, gone := s.changed, false
		if at < 0 {
			batch, at, gone = s.start(since, stream)
		} else {
			batch, at = s.after(at)
		}
		s.mu.Unlock()
		if gone {
			out.expire(since)
			return nil
		}
		if !out.send(batch) {
			return nil
		}
		select {
		case <-changed:
		case <-over.C:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}
