package cniplugin

import (
	"encoding/json"
	"errors"
	"strings"
)

// spoofing is the key allowSpoofing: which pods may send with addresses that are
// not theirs. In our own form that is none unless it is said; in flannel's form,
// under which pods always could, all.
type spoofing struct {
	said bool
	all  bool
	pods []string // namespace, namespace/pod, namespace/begins-with*
}

// UnmarshalJSON reads true, false, or a list of pods.
func (s *spoofing) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	s.said = true
	if json.Unmarshal(b, &s.all) == nil {
		return nil
	}
	if json.Unmarshal(b, &s.pods) != nil {
		return errors.New(`neither true nor false, nor a list such as ["metallb-system", "vms/router-*"]`)
	}
	for _, p := range s.pods {
		namespace, pod, _ := strings.Cut(p, "/")
		if namespace == "" || strings.Contains(namespace, "*") || strings.ContainsAny(strings.TrimSuffix(pod, "*"), "/*") {
			return errors.New(`"` + p + `" is not a namespace, namespace/pod, or namespace/begins-with*`)
		}
	}
	return nil
}

// allows tells whether a pod may, by its CNI_ARGS: Kubernetes' runtimes say there
// which pod it is, others what an operator gives them.
func (s spoofing) allows(args string) bool {
	if s.all || !s.said {
		return true
	}
	a := parseCNIArgs(args)
	if v := a["WEFT_ALLOW_SPOOFING"]; v == "true" || v == "1" {
		return true
	}
	namespace, pod := a["K8S_POD_NAMESPACE"], a["K8S_POD_NAME"]
	for _, p := range s.pods {
		wantNamespace, wantPod, one := strings.Cut(p, "/")
		begin, open := strings.CutSuffix(wantPod, "*")
		if namespace == wantNamespace && (!one || wantPod == pod || open && strings.HasPrefix(pod, begin)) {
			return true
		}
	}
	return false
}
