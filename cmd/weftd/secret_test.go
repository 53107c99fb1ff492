package main

import "testing"

func TestOnCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want bool
	}{
		{[]string{"--etcd-password=x"}, true},
		{[]string{"-iface", "eth0", "-etcd-password", "x"}, true},
		{[]string{"--etcd-password-file=x", "etcd-password"}, false},
	} {
		if have := onCommandLine(c.args, "etcd-password"); have != c.want {
			t.Errorf("%q: %v", c.args, have)
		}
	}
}
