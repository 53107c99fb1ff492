package sandbox

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

//nolint:dupword // the kernel says it like that
func TestOwnJoinsMountsWithGroups(t *testing.T) {
	const mounts = `22 1 0:21 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
23 22 0:22 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
24 22 0:23 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
25 22 0:24 /elsewhere /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
26 22 0:25 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
27 22 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	cases := []struct {
		name, groups string
		want         map[string]string
	}{
		{"in the root of one and below another", "5:cpu,cpuacct:/\n4:memory:/user/7\n0::/\n", map[string]string{
			"cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory/user/7",
		}},
		{"a mount of a part of a hierarchy says nothing", "3:pids:/a\n", map[string]string{}},
		{"a hierarchy without controllers takes none", "1:name=systemd:/x\n", map[string]string{}},
		{"version 2 only", "0::/user.slice\n", map[string]string{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			have := map[string]string{}
			for _, h := range own(mounts, c.groups).dirs {
				have[h.controllers] = h.dir
			}
			if d := cmp.Diff(c.want, have); d != "" {
				t.Error(d)
			}
		})
	}
}
