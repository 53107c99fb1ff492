package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/subnet/etcd"
)

func TestStoreFlags(t *testing.T) {
	usual := func(change func(*etcd.Options)) etcd.Options {
		o := etcd.Options{Endpoints: []string{"http://127.0.0.1:2379"}, Prefix: "/coreos.com/network"}
		change(&o)
		return o
	}
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want etcd.Options
	}{
		"nothing": {nil, nil, usual(func(*etcd.Options) {})},
		"endpoints from the environment of weftd": {
			nil, map[string]string{"WEFTD_ETCD_ENDPOINTS": "https://a:1,https://b:1", "FLANNELD_ETCD_ENDPOINTS": "http://c:1"},
			usual(func(o *etcd.Options) { o.Endpoints = []string{"https://a:1", "https://b:1"} }),
		},
		"an empty variable says nothing": {
			nil, map[string]string{"WEFTD_ETCD_PREFIX": "", "FLANNELD_ETCD_PREFIX": "/old"},
			usual(func(o *etcd.Options) { o.Prefix = "/old" }),
		},
		"the command line goes first": {
			[]string{"--etcd-prefix", "/new"}, map[string]string{"WEFTD_ETCD_PREFIX": "/old"},
			usual(func(o *etcd.Options) { o.Prefix = "/new" }),
		},
		"a password from the environment": {
			[]string{"--etcd-username", "u"}, map[string]string{"FLANNELD_ETCD_PASSWORD": "sesame"},
			usual(func(o *etcd.Options) { o.Username, o.Password = "u", "sesame" }),
		},
		"a password from a file goes before it": {
			[]string{"--etcd-password-file", "/p"},
			map[string]string{"WEFTD_ETCD_PASSWORD": "sesame", "WEFTD_ETCD_USERNAME": "u"},
			usual(func(o *etcd.Options) { o.Username, o.PasswordFile = "u", "/p" }),
		},
		"that file from the environment": {
			nil, map[string]string{"WEFTD_ETCD_PASSWORD_FILE": "/p", "WEFTD_ETCD_USERNAME": "u"},
			usual(func(o *etcd.Options) { o.Username, o.PasswordFile = "u", "/p" }),
		},
		"TLS": {
			[]string{"--etcd-cafile", "/ca", "--etcd-certfile", "/cert"}, map[string]string{"WEFTD_ETCD_KEYFILE": "/key"},
			usual(func(o *etcd.Options) { o.CAFile, o.CertFile, o.KeyFile = "/ca", "/cert", "/key" }),
		},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			var f storeFlags
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			f.register(flags)
			if err := flags.Parse(c.args); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, f.options()); d != "" {
				t.Errorf("(-want +have):\n%s", d)
			}
		})
	}
}
