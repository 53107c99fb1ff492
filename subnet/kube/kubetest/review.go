package kubetest

import (
	"errors"
	"net/http"

	authv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// review tells whether a request would be let through, as far as Refuse says.
func (s *Server) review(q request) (runtime.Object, error) {
	o, _, err := s.codec.decoder.Decode(q.body, nil, nil)
	if err != nil {
		return nil, err
	}
	r, ok := o.(*authv1.SelfSubjectAccessReview)
	if !ok || r.Spec.ResourceAttributes == nil {
		return nil, errors.New("not a review of a resource")
	}
	a := r.Spec.ResourceAttributes
	what := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	r.Status.Allowed = s.refused[what] != http.StatusForbidden
	return r, nil
}
