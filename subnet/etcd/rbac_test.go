package etcd

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	logtest "github.com/sirupsen/logrus/hooks/test"
)

// TestRoles is the recipe of Documentation/security.md: a role for all nodes
// that may write leases and nothing else, and one for a single node that may
// write its own lease only.
func TestRoles(t *testing.T) {
	server := startServer(t, t.TempDir(), "127.0.0.1:0")
	admin, ctx := raw(t, server.Endpoint()), short(t)
	const prefix = "/coreos.com/network/"
	grant := func(role, from, to string, kind clientv3.PermissionType) {
		t.Helper()
		if _, err := admin.RoleGrantPermission(ctx, role, from, to, kind); err != nil {
			t.Fatal(err)
		}
	}
	for _, role := range []string{"root", "weft-node", "weft-reader", "weft-one"} {
		if _, err := admin.RoleAdd(ctx, role); err != nil && role != "root" {
			t.Fatal(err)
		}
	}
	end := clientv3.GetPrefixRangeEnd
	grant("weft-reader", prefix, end(prefix), clientv3.PermissionType(clientv3.PermRead))
	grant("weft-node", prefix+"subnets/", end(prefix+"subnets/"), clientv3.PermissionType(clientv3.PermReadWrite))
	for user, roles := range map[string][]string{
		"root": {"root"}, "node": {"weft-reader", "weft-node"}, "one": {"weft-reader", "weft-one"},
	} {
		if _, err := admin.UserAdd(ctx, user, "sesame"); err != nil {
			t.Fatal(err)
		}
		for _, role := range roles {
			if _, err := admin.UserGrantRole(ctx, user, role); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := admin.Put(ctx, prefix+"config", config4); err != nil {
		t.Fatal(err)
	}
	log, _ := logtest.NewNullLogger()
	as := func(user string) *Store {
		return open(t, Options{
			Endpoints: []string{server.Endpoint()}, Prefix: "/coreos.com/network", Username: user, Password: "sesame", Log: log,
		})
	}
	first := mustAcquire(t, open(t, Options{
		Endpoints: []string{server.Endpoint()}, Prefix: "/coreos.com/network", Log: log,
	}), claim(t, config4, 1))
	key := prefix + "subnets/" + first.ID
	grant("weft-one", key, "", clientv3.PermissionType(clientv3.PermReadWrite))
	if _, err := admin.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}

	node := as("node")
	second := mustAcquire(t, node, claim(t, config4, 2))
	follow(t, node).until("both leases", hasIDs(first.ID, second.ID))
	_, err := node.SetConfig(ctx, []byte(config4), false)
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a node may write the configuration: %v", err)
	}

	one := as("one")
	again := claim(t, config4, 1)
	again.ID, again.Created = first.ID, first.Created
	if l := mustAcquire(t, one, again); l.ID != first.ID {
		t.Errorf("%s, want its own %s", l.ID, first.ID)
	}
	next := second
	if _, err := one.Publish(ctx, second, next); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("one node may write the lease of another: %v", err)
	}
}
