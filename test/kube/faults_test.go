package kube_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	weftnode "github.com/weftnet/weft/network"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
	"github.com/weftnet/weft/test/kube/apiserver"
)

// An API server that goes, in either way, and comes back.
func TestRestart(t *testing.T) {
	t.Parallel()
	c := own(t).tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	c.join(t, "node-2", "10.9.2.0/24", "192.0.2.2")
	log, said := logtest.NewNullLogger()
	s := c.open(t, c.server.URL(), logTo(log))
	ended := hold(t, s, acquire(t, s, network))
	next := follow(t, s)
	next("both", has("node-1", "node-2"))
	names := []string{"node-1", "node-2"}
	for i, end := range []func() error{c.server.Stop, c.server.Kill} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := c.server.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		names = append(names, fmt.Sprintf("node-%d", i+3))
		c.join(t, names[i+2], fmt.Sprintf("10.9.%d.0/24", i+3), fmt.Sprintf("192.0.2.%d", i+3))
		next("one more, and none less", func(s subnet.Snapshot) bool {
			if len(s.Leases) < len(names)-1 {
				t.Errorf("leases were lost: %+v", s.Leases)
			}
			return has(names...)(s)
		})
	}
	select {
	case err := <-ended:
		t.Errorf("Hold ended by %v", err)
	default:
	}
	away, back := 0, 0
	for _, e := range said.AllEntries() {
		switch {
		case strings.Contains(e.Message, "can't be followed"):
			away++
		case strings.Contains(e.Message, "followed again"):
			back++
		}
	}
	if away != back || away > 2 {
		t.Errorf("it was said %d times that the server is away, and %d times that it is back", away, back)
	}
}

// The history that the watch would go on from is gone: 410, and all is read
// again.
func TestCompaction(t *testing.T) {
	t.Parallel()
	c := own(t).tie(t)
	c.join(t, "node-2", "10.9.2.0/24", "192.0.2.2")
	c.join(t, "node-3", "10.9.3.0/24", "192.0.2.3")
	door := c.openDoor(t)
	next := follow(t, c.open(t, door.URL))
	next("both", has("node-2", "node-3"))
	door.Shut()
	c.remove(t, "node-2")
	c.join(t, "node-4", "10.9.4.0/24", "192.0.2.4")
	c.compact(t)
	// A new server's cache begins at what there is now.
	if err := c.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	door.Reopen()
	next("what is there", func(s subnet.Snapshot) bool {
		if len(s.Leases) < 2 {
			t.Errorf("leases were lost: %+v", s.Leases)
		}
		return has("node-3", "node-4")(s)
	})
	streams := 0
	for _, what := range door.passed() {
		if strings.HasPrefix(what, "STREAM 200") {
			streams++
		}
	}
	if streams != 2 {
		t.Errorf("want all to be read again once, have %v", door.passed())
	}
}

// compact ends the store's history now.
func (c *cluster) compact(t *testing.T) {
	t.Helper()
	etcd, err := c.server.Etcd()
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	now, err := etcd.Get(short(t), "/registry/minions/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Compact(short(t), now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

func TestNodeDeletedUnderUs(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	s := c.open(t, c.server.URL())
	l := acquire(t, s, network)
	ended := hold(t, s, l)
	c.remove(t, "node-1")
	if err := receive(t, ended); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("Hold: want ErrLeaseLost, have %v", err)
	}
	if _, err := s.Publish(short(t), l, l); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("Publish: want ErrLeaseLost, have %v", err)
	}
	c.create(t, "node-1", "10.9.7.0/24")
	if next := acquire(t, s, network); next.ID == l.ID || next.Created == l.Created {
		t.Errorf("the new Node has the old lease: %+v", next)
	}
}

func TestAPodCIDRIsWaitedFor(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1")
	c.acquireLate(t, c.open(t, c.server.URL()))
}

// acquireLate acquires for node-1, which gets its podCIDR once an Event has
// said that it is missing.
func (c *cluster) acquireLate(t *testing.T, s *kube.Store) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		l, err := s.Acquire(short(t), claimOf(t, network))
		if err == nil && l.ID != "node-1:10.9.7.0/24" {
			err = fmt.Errorf("lease %s", l.ID)
		}
		done <- err
	}()
	uid := c.node(t, "node-1").UID
	eventually(t, "an Event", func() error {
		events, err := c.admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.uid=" + string(uid) + ",reason=WeftWaitsForPodCIDR",
		})
		if err == nil && len(events.Items) != 1 {
			err = fmt.Errorf("%d Events", len(events.Items))
		}
		return err
	})
	c.assign(t, "node-1", "10.9.7.0/24")
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
}

// A token or a certificate that is no longer taken, and is then renewed in its
// file, as the kubelet does it: the daemon goes on without a restart.
func TestRenewedCredentials(t *testing.T) {
	const refused = "doesn't take our token or certificate"
	for name, renewed := range map[string]func(*testing.T, *cords, string) (apiserver.Credentials, func()){
		"a token": func(t *testing.T, c *cords, dir string) (apiserver.Credentials, func()) {
			file := filepath.Join(dir, "token")
			put(t, file, []byte("a token of yesterday"))
			return apiserver.Credentials{TokenFile: file}, func() { put(t, file, []byte(c.token)) }
		},
		"a certificate": func(t *testing.T, c *cords, dir string) (apiserver.Credentials, func()) {
			as := apiserver.Credentials{CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key")}
			issue := func(until time.Time) {
				cert, key, err := c.server.UserCertificate(user, until)
				if err != nil {
					t.Fatal(err)
				}
				put(t, as.CertFile, cert)
				put(t, as.KeyFile, key)
			}
			issue(time.Now().Add(-time.Hour))
			return as, func() { issue(time.Now().Add(time.Hour)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := shared.tie(t)
			c.create(t, "node-1", "10.9.1.0/24")
			as, renew := renewed(t, c, t.TempDir())
			c.configure(t, network)
			log, said := logtest.NewNullLogger()
			d := c.daemon(t, c.openAs(t, c.server.URL(), as, logTo(log)), log, said)
			eventually(t, "a warning", func() error {
				lines := d.warnings()
				if len(lines) == 0 || !strings.Contains(lines[0], refused) {
					return fmt.Errorf("want %q, have %q", refused, lines)
				}
				return nil
			})
			renew()
			d.until(t, "readiness", serving(0))
			told := 0
			for _, line := range d.warnings() {
				told += strings.Count(line, refused)
			}
			if told != 1 {
				t.Errorf("it was said %d times: %q", told, d.warnings())
			}
		})
	}
}

// put replaces a file at once.
func put(t testing.TB, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file+".next", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".next", file); err != nil {
		t.Fatal(err)
	}
}

// A token that is revoked while the daemon runs takes nothing from it; with
// the next one it goes on.
func TestARevokedToken(t *testing.T) {
	t.Parallel()
	c := own(t).tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	c.join(t, "node-2", "10.9.2.0/24", "192.168.77.2")
	token := c.secondAccount(t)
	file := filepath.Join(t.TempDir(), "token")
	put(t, file, []byte(token))
	c.configure(t, network)
	door := c.openDoor(t)
	log, said := logtest.NewNullLogger()
	d := c.daemon(t, c.openAs(t, door.URL, apiserver.Credentials{TokenFile: file}, logTo(log)), log, said)
	d.until(t, "node-2 as a peer", serving(1))
	before := d.kernel.Dump()
	door.Shut()
	next := c.secondAccount(t) // another of the same name: the token before is of none
	c.until401(t, token)
	door.Reopen()
	eventually(t, "a refusal", func() error {
		for _, what := range door.passed() {
			if strings.Contains(what, "401") {
				return nil
			}
		}
		return fmt.Errorf("have %q", door.passed())
	})
	if s := d.Status(); !serving(1)(s) || d.kernel.Dump() != before {
		t.Errorf("something was disturbed: %+v\n%s", s, d.kernel.Dump())
	}
	put(t, file, []byte(next))
	c.join(t, "node-3", "10.9.3.0/24", "192.168.77.3")
	d.until(t, "node-3 to be heard of", func(s weftnode.Status) bool { return s.Ready && s.Store.Leases == 3 })
}

// until401 waits until the server has forgotten, after 10 seconds, that a token
// was good.
func (c *cluster) until401(t testing.TB, token string) {
	t.Helper()
	config := rest.AnonymousClientConfig(c.server.Admin())
	config.BearerToken = token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token to be refused", func() error {
		if _, err := client.CoreV1().Nodes().Get(t.Context(), "node-1", metav1.GetOptions{}); !apierrors.IsUnauthorized(err) {
			return errors.Join(errors.New("it is not"), err)
		}
		return nil
	})
}

// secondAccount makes a service account beside the first one anew, with its
// rights, and gives its token.
func (c *cluster) secondAccount(t testing.TB) string {
	t.Helper()
	const name = "weft-2"
	accounts := c.admin.CoreV1().ServiceAccounts(space)
	if err := accounts.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := accounts.Create(t.Context(), a, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: account},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: space}},
	}
	_, err := c.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	token, err := c.newToken(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Credentials that the server doesn't take are one message with the next step.
func TestBadCredentials(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	accounts := c.admin.CoreV1().ServiceAccounts(space)
	gone := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}
	if _, err := accounts.Create(t.Context(), gone, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := c.newToken(t.Context(), gone.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := accounts.Delete(t.Context(), gone.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, as := range map[string]apiserver.Credentials{
		"a token of an account that is gone": {Token: token},
		"nonsense for a token":               {Token: "nonsense"},
		"a certificate that has expired":     {Name: user, Until: time.Now().Add(-time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			log, said := logtest.NewNullLogger()
			s := c.openAs(t, c.server.URL(), as, logTo(log))
			follow(t, s)
			const want = "doesn't take our token or certificate"
			eventually(t, "a warning", func() error {
				for _, e := range said.AllEntries() {
					if strings.Contains(e.Message, want) {
						return nil
					}
				}
				return fmt.Errorf("want %q, have %d entries", want, len(said.AllEntries()))
			})
			if _, err := s.Acquire(short(t), claimOf(t, network)); err == nil {
				t.Error("a lease")
			}
		})
	}
}
