package main

import "testing"

// TestFlannelsFlags: the flags that flannel v0.28.9 has, with its defaults.
func TestFlannelsFlags(t *testing.T) {
	fs := new(settings).flagSet()
	for name, want := range map[string]string{
		"etcd-endpoints":               "http://127.0.0.1:4001,http://127.0.0.1:2379",
		"etcd-prefix":                  "/coreos.com/network",
		"etcd-keyfile":                 "",
		"etcd-certfile":                "",
		"etcd-cafile":                  "",
		"etcd-username":                "",
		"etcd-password":                "",
		"kube-subnet-mgr":              "false",
		"kube-api-url":                 "",
		"kubeconfig-file":              "",
		"kube-annotation-prefix":       "flannel.alpha.coreos.com",
		"net-config-path":              "/etc/kube-flannel/net-conf.json",
		"set-node-network-unavailable": "true",
		"iface":                        "",
		"iface-regex":                  "",
		"iface-can-reach":              "",
		"public-ip":                    "",
		"public-ipv6":                  "",
		"subnet-file":                  "/run/flannel/subnet.env",
		"subnet-lease-renew-margin":    "60",
		"ip-masq":                      "false",
		"ip-masq-fully-random-disable": "false",
		"iptables-forward-rules":       "true",
		"iptables-resync":              "5",
		"ip-blackhole-route":           "false",
		"healthz-ip":                   "0.0.0.0",
		"healthz-port":                 "0",
		"version":                      "false",
		"v":                            "0",
		"vmodule":                      "",
		"log_backtrace_at":             "", // klog shows its own as :0, which no file is
	} {
		t.Run(name, func(t *testing.T) {
			f := fs.Lookup(name)
			if f == nil {
				t.Fatal("is not there")
			}
			if f.DefValue != want {
				t.Errorf("default %q, want %q", f.DefValue, want)
			}
		})
	}
}
