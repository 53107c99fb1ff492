package kube_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	gocmp "github.com/google/go-cmp/cmp"
	authv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// asAccount is a full client with the service account's token.
func (c *cluster) asAccount(t testing.TB) kubernetes.Interface {
	t.Helper()
	config := rest.AnonymousClientConfig(c.server.Admin())
	config.BearerToken = c.token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// The role is what kubectl auth can-i --list prints of it.
func TestRole(t *testing.T) {
	review := &authv1.SelfSubjectRulesReview{Spec: authv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}
	got, err := shared.asAccount(t).AuthorizationV1().SelfSubjectRulesReviews().
		Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil || got.Status.Incomplete {
		t.Fatalf("incomplete: %v, %v", got, err)
	}
	have := canI(got.Status)
	t.Logf("kubectl auth can-i --list --as=%s\n%s", user, have)
	golden := filepath.Join("testdata", "can-i.txt")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(string(want), have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", golden, diff)
	}
	page, err := os.ReadFile("../../Documentation/kubernetes.md")
	if err != nil || !strings.Contains(string(page), "```\n"+have+"```\n") {
		t.Errorf("Documentation/kubernetes.md doesn't print it: %v", err)
	}
}

// canI is sorted, where kubectl leaves the order to chance.
func canI(s authv1.SubjectRulesReviewStatus) string {
	var rows []string
	for _, r := range s.ResourceRules {
		for _, resource := range r.Resources {
			if group := strings.Join(r.APIGroups, ","); group != "" {
				resource += "." + group
			}
			rows = append(rows, fmt.Sprintf("%s\t[]\t%v\t%v", resource, r.ResourceNames, r.Verbs))
		}
	}
	for _, r := range s.NonResourceRules {
		for _, url := range r.NonResourceURLs {
			rows = append(rows, fmt.Sprintf("\t[%s]\t[]\t%v", url, r.Verbs))
		}
	}
	slices.Sort(rows)
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "Resources\tNon-Resource URLs\tResource Names\tVerbs") // a strings.Builder takes all
	for _, row := range slices.Compact(rows) {
		_, _ = fmt.Fprintln(w, row)
	}
	_ = w.Flush()
	return out.String()
}

// What the daemon asks for in its life is what the role allows: no less, or it
// would be refused, and no more.
func TestTheRoleIsUsed(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1")
	before := len(c.requests(t))
	s := c.open(t, c.server.URL())
	c.acquireLate(t, s)
	follow(t, s)("the lease", has("node-1"))
	if err := s.SetNetworkAvailable(short(t), true, ""); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{"list nodes": true} // by servers without streamed lists, see TestWithoutStreamedLists
	for _, r := range c.requests(t)[before:] {
		if r.code >= http.StatusBadRequest && r.code != http.StatusConflict {
			t.Errorf("%s: %d", r.what, r.code)
		}
		used[r.what] = true
	}
	allowed := map[string]bool{}
	role, err := c.admin.RbacV1().ClusterRoles().Get(t.Context(), account, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := c.admin.RbacV1().Roles(metav1.NamespaceDefault).Get(t.Context(), "weft-events", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range slices.Concat(role.Rules, events.Rules) {
		for _, verb := range rule.Verbs {
			allowed[verb+" "+rule.Resources[0]] = true
		}
	}
	if diff := gocmp.Diff(allowed, used); diff != "" {
		t.Errorf("requests (-allowed +used):\n%s", diff)
	}
}

type request struct {
	what string // "patch nodes/status"
	uri  string
	code int32
}

// requests are those of the service account so far.
func (c *cluster) requests(t testing.TB) []request {
	t.Helper()
	events, err := c.server.Requests(user)
	if err != nil {
		t.Fatal(err)
	}
	var out []request
	for _, e := range events {
		what := e.Verb
		if e.ObjectRef != nil {
			what += " " + e.ObjectRef.Resource
			if e.ObjectRef.Subresource != "" {
				what += "/" + e.ObjectRef.Subresource
			}
		}
		if strings.HasPrefix(e.UserAgent, "weftd/") {
			out = append(out, request{what, e.RequestURI, e.ResponseStatus.Code})
		}
	}
	return out
}

// What the role must not give.
func TestTheRoleEnds(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	nodes := c.asAccount(t).CoreV1().Nodes()
	label := []byte(`{"metadata":{"labels":{"a":"b"}}}`)
	_, patch := nodes.Patch(t.Context(), "node-1", types.StrategicMergePatchType, label, metav1.PatchOptions{})
	_, secrets := c.asAccount(t).CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	for what, err := range map[string]error{
		"patch nodes":  patch,
		"list secrets": secrets,
		"delete nodes": nodes.Delete(t.Context(), "node-1", metav1.DeleteOptions{}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: want it forbidden, have %v", what, err)
		}
	}
	spec := []byte(`{"spec":{"podCIDR":"10.9.9.0/24","podCIDRs":["10.9.9.0/24"],"unschedulable":true}}`)
	n, err := nodes.Patch(t.Context(), "node-1", types.StrategicMergePatchType, spec, metav1.PatchOptions{}, "status")
	if err != nil || n.Spec.PodCIDR != "10.9.1.0/24" || n.Spec.Unschedulable {
		t.Errorf("nodes/status reaches the spec: %+v, %v", n.Spec, err)
	}
}

// A role without one of its verbs is one clear message, and mending it is
// enough.
func TestAVerbIsMissing(t *testing.T) {
	c := shared.tie(t)
	whole, set := c.rules(t)
	defer set(whole)
	c.create(t, "node-1", "10.9.1.0/24")
	s := c.open(t, c.server.URL())
	for verb, want := range map[string]string{
		"get nodes":          `get node node-1: nodes "node-1" is forbidden`,
		"patch nodes/status": `patch the status of node node-1: nodes "node-1" is forbidden`,
	} {
		set(without(whole, verb))
		eventually(t, "no right to "+verb, func() error {
			c.annotate(t, "node-1", map[string]string{prefix + "backend-type": ""})
			_, err := s.Acquire(short(t), claimOf(t, network))
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), user) {
				return fmt.Errorf("want %q, have %w", want, err)
			}
			return nil
		})
		set(whole)
		eventually(t, "the right to "+verb, func() error {
			_, err := s.Acquire(short(t), claimOf(t, network))
			return err
		})
	}
}

// Without the watch nothing begins; what is there already stays.
func TestTheWatchIsForbidden(t *testing.T) {
	c := shared.tie(t)
	whole, set := c.rules(t)
	defer set(whole)
	c.create(t, "node-1", "10.9.1.0/24")
	set(without(whole, "watch nodes"))
	eventually(t, "no right to watch nodes", func() error {
		w, err := c.asAccount(t).CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
		if err == nil {
			w.Stop()
			return errors.New("it is there")
		}
		return nil
	})
	d := c.serves(t)
	d.notReady(t, "uplink: the API server has not answered yet; the log says why")
	const want = `User "` + user + `" cannot watch resource "nodes"`
	const next = "give the service account this verb (see Documentation/kubernetes.md)"
	eventually(t, "a line in the log", func() error {
		if lines := d.warnings(); len(lines) == 0 || !strings.Contains(lines[0], want) || !strings.Contains(lines[0], next) {
			return fmt.Errorf("want %q and %q, have %q", want, next, lines)
		}
		return nil
	})
	set(whole)
	d.until(t, "readiness", serving(0))
}

// rules gives what the role allows, and sets it.
func (c *cluster) rules(t testing.TB) (whole []rbacv1.PolicyRule, set func([]rbacv1.PolicyRule)) {
	t.Helper()
	roles := c.admin.RbacV1().ClusterRoles()
	role, err := roles.Get(t.Context(), account, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return role.Rules, func(rules []rbacv1.PolicyRule) {
		t.Helper()
		retry(t, "change the role", func() error {
			now, err := roles.Get(t.Context(), account, metav1.GetOptions{})
			if err != nil {
				return err
			}
			now.Rules = rules
			_, err = roles.Update(t.Context(), now, metav1.UpdateOptions{})
			return err
		})
	}
}

// without takes one "verb resource" away.
func without(rules []rbacv1.PolicyRule, what string) []rbacv1.PolicyRule {
	verb, resource, _ := strings.Cut(what, " ")
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		r = *r.DeepCopy()
		if slices.Contains(r.Resources, resource) {
			r.Verbs = slices.DeleteFunc(r.Verbs, func(v string) bool { return v == verb })
		}
		if len(r.Verbs) > 0 {
			out = append(out, r)
		}
	}
	return out
}
