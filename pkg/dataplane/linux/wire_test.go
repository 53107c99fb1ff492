package linux

import (
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestFailure(t *testing.T) {
	number := func(errno unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))) }
	var request encoder
	request.begin(unix.RTM_NEWROUTE, 0)
	request.bytes(make([]byte, 12)...)
	request.end()
	var says encoder
	says.attr(2, []byte{1, 2, 3, 4}) // NLMSGERR_ATTR_OFFS
	says.attr(nl.NLMSGERR_ATTR_MSG, []byte("no such luck\x00"))
	join := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	tests := map[string]struct {
		m    message
		want string
	}{
		"acknowledgement":      {message{typ: unix.NLMSG_ERROR, data: join(number(0), request.buf)}, ""},
		"end of a dump":        {message{typ: unix.NLMSG_DONE}, ""},
		"end of a failed dump": {message{typ: unix.NLMSG_DONE, data: number(unix.ENODEV)}, "no such device"},
		"error":                {message{typ: unix.NLMSG_ERROR, data: join(number(unix.EEXIST), request.buf)}, "file exists"},
		"explained": {message{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS,
			data: join(number(unix.EEXIST), request.buf, says.buf)}, "file exists: no such luck"},
		"explained, with the header of the request alone": {message{
			typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED,
			data: join(number(unix.EEXIST), request.buf[:unix.SizeofNlMsghdr], says.buf)}, "file exists: no such luck"},
		"end of a failed dump, explained": {message{typ: unix.NLMSG_DONE, flags: unix.NLM_F_ACK_TLVS,
			data: join(number(unix.EINVAL), says.buf)}, "invalid argument: no such luck"},
		"cut short": {message{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS,
			data: join(number(unix.EEXIST), request.buf)[:9]}, "file exists"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			have := ""
			if err := test.m.failure(); err != nil {
				have = err.Error()
			}
			if have != test.want {
				t.Errorf("want %q, have %q", test.want, have)
			}
		})
	}
}
