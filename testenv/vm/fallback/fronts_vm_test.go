//go:build ipvsvm

package fallback

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/testenv/tb"
)

// What fo, ovf, SCTP, a mark and masquerading are to each front, and to the
// kernel.
const (
	frontRules = `-A -t 172.16.0.7:81 -s fo
-a -t 172.16.0.7:81 -r 192.168.79.27:80 -m -w 2
-a -t 172.16.0.7:81 -r 192.168.79.37:80 -m -w 5
-A -u 172.16.0.7:53 -s ovf -p 60
-a -u 172.16.0.7:53 -r 192.168.79.27:53 -m -w 3
-A --sctp-service 172.16.0.7:5060 -s lblcr
-a --sctp-service 172.16.0.7:5060 -r 192.168.79.27:5060 -m -w 1
-a --sctp-service 172.16.0.7:5060 -r 192.168.79.37:5060 -m -w 4
-A -f 10 -s wlc
-a -f 10 -r 192.168.79.27:0 -g -w 1
-a -f 10 -r 192.168.79.37:0 -i -w 2 --tun-type ipip
`
	frontFile = `interfaces: [eth0, eth1]
backend: ipvs
services:
  - {name: a, listen: ["172.16.0.7:81/tcp"], scheduler: fo, forward: nat,
     reals: [{address: 192.168.79.27, port: 80, weight: 2}, {address: 192.168.79.37, port: 80, weight: 5}]}
  - {name: b, listen: ["172.16.0.7:53/udp"], scheduler: ovf, forward: nat, persistence: {timeout: 60s}, reals: [{address: 192.168.79.27, weight: 3}]}
  - {name: c, listen: ["172.16.0.7:5060/sctp"], scheduler: lblcr, forward: nat, reals: [{address: 192.168.79.27}, {address: 192.168.79.37, weight: 4}]}
  - {name: d, listen: ["172.16.0.7:443/tcp"], mark: 10, scheduler: wlc, reals: [{address: 192.168.79.27}, {address: 192.168.79.37, forward: ipip, weight: 2}]}
`
	frontMarks = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 172.16.0.7/32 -p tcp -m tcp --dport 443 -j MARK --set-xmark 0xa/0xffffffff\nCOMMIT\n"
	frontConf  = `virtual_server 172.16.0.7 81 {
  protocol TCP
  lb_algo fo
  lb_kind NAT
  real_server 192.168.79.27 80 { weight 2 }
  real_server 192.168.79.37 80 { weight 5 }
}
virtual_server 172.16.0.7 53 {
  protocol UDP
  lb_algo ovf
  lb_kind NAT
  persistence_timeout 60
  real_server 192.168.79.27 53 { weight 3 }
}
virtual_server 172.16.0.7 5060 {
  protocol SCTP
  lb_algo lblcr
  lb_kind NAT
  real_server 192.168.79.27 5060 { weight 1 }
  real_server 192.168.79.37 5060 { weight 4 }
}
virtual_server fwmark 10 {
  lb_algo wlc
  lb_kind DR
  real_server 192.168.79.27 { weight 1 }
  real_server 192.168.79.37 {
    weight 2
    lvs_method TUN
  }
}
`
)

// TestKernelFronts: commands of ipvsadm, the file, what lvx import makes of
// rules and of a keepalived.conf give the kernel the same rules.
func TestKernelFronts(t *testing.T) {
	l := natLab(t)
	for name, text := range map[string]string{"rules": frontRules, "marks": frontMarks, "keepalived.conf": frontConf} {
		if err := os.WriteFile(filepath.Join(l.director.Dir(), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sh := func(line string) string {
		t.Helper()
		return tb.Run(t, l.director, "env", "LVX_SOCKET="+l.socket(), "sh", "-c", "cd "+l.director.Dir()+" && "+line)
	}
	const empty = "interfaces: [eth0, eth1]\nbackend: ipvs\nservices: []\n"
	l.run(empty)
	for _, front := range []struct {
		name string
		on   func()
		off  func()
	}{
		{"ipvsadm", func() { sh(lvxBinary + " ipvsadm -R <rules") }, func() { sh(lvxBinary + " ipvsadm -C") }},
		{"the file", func() { l.run(frontFile) }, func() { l.run(empty) }},
		{"import of rules", func() {
			l.run(sh(lvxBinary + " import --backend ipvs --interface eth0 --ipvsadm rules --iptables marks"))
		}, func() { l.run(empty) }},
		{"import of keepalived.conf", func() {
			l.run(sh(lvxBinary + " import --backend ipvs --interface eth0 --iptables marks keepalived.conf"))
		}, func() { l.run(empty) }},
	} {
		front.on()
		want := sh("sort rules")
		if diff := cmp.Diff(want, sh("/usr/sbin/ipvsadm -S -n | sort")); diff != "" {
			t.Errorf("%s (-rules +kernel):\n%s", front.name, diff)
		}
		front.off()
		if left := sh("/usr/sbin/ipvsadm -S -n"); left != "" {
			t.Errorf("%s leaves\n%s", front.name, left)
		}
	}
}
