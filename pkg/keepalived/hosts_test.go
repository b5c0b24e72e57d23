package keepalived_test

import "testing"

// TestLengthsBehindHosts: keepalived drops a range and the length of a network
// behind the address of a host, wherever it wants one.
func TestLengthsBehindHosts(t *testing.T) {
	const text = "virtual_server 192.0.2.1/32 80 {\n protocol TCP\n lb_kind DR\n" +
		" real_server 192.0.2.11/24 80 {\n TCP_CHECK { connect_ip 192.0.2.77/24\n bindto 192.0.2.9/24 }\n }\n" +
		" real_server 192.0.2.12-15 80 { TCP_CHECK { } }\n sorry_server 192.0.2.66/24 80\n}\n" +
		"bfd_instance b { neighbor_ip 192.0.2.8/24\n source_ip 192.0.2.9/24 }\n"
	holds(t, importText(t, text), `listen: ["192.0.2.1:80/tcp"]`, `address: "192.0.2.11"`, `address: "192.0.2.12"`, `address: "192.0.2.77", source: "192.0.2.9"`,
		`sorry_server: "192.0.2.66"`, `neighbour: "192.0.2.8", source: "192.0.2.9"`, "no keepalived ignores")
}
