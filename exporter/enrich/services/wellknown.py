"""
Service names that every agent has: of IANA's registry those that Debian's netbase 6.4 selects.

A line is port, name, and the protocols that it is registered for.
"""

from __future__ import annotations

WELL_KNOWN = """\
1 tcpmux tcp
7 echo tcp udp
9 discard tcp udp
11 systat tcp
13 daytime tcp udp
15 netstat tcp
17 qotd tcp
19 chargen tcp udp
20 ftp-data tcp
21 fsp udp
21 ftp tcp
22 ssh tcp
23 telnet tcp
25 smtp tcp
37 time tcp udp
43 whois tcp
49 tacacs tcp udp
53 domain tcp udp
67 bootps udp
68 bootpc udp
69 tftp udp
70 gopher tcp
79 finger tcp
80 http tcp
88 kerberos tcp udp
102 iso-tsap tcp
104 acr-nema tcp
106 poppassd tcp
110 pop3 tcp
111 sunrpc tcp udp
113 auth tcp
119 nntp tcp
123 ntp udp
135 epmap tcp
137 netbios-ns udp
138 netbios-dgm udp
139 netbios-ssn tcp
143 imap2 tcp
161 snmp tcp udp
162 snmp-trap tcp udp
163 cmip-man tcp udp
164 cmip-agent tcp udp
174 mailq tcp
177 xdmcp udp
179 bgp tcp
199 smux tcp
209 qmtp tcp
210 z3950 tcp
213 ipx udp
319 ptp-event udp
320 ptp-general udp
345 pawserv tcp
346 zserv tcp
369 rpc2portmap tcp udp
370 codaauth2 tcp udp
371 clearcase udp
389 ldap tcp udp
427 svrloc tcp udp
443 https tcp udp
444 snpp tcp
445 microsoft-ds tcp
464 kpasswd tcp udp
465 submissions tcp
487 saft tcp
500 isakmp udp
512 biff udp
512 exec tcp
513 login tcp
513 who udp
514 shell tcp
514 syslog udp
515 printer tcp
517 talk udp
518 ntalk udp
520 route udp
538 gdomap tcp udp
540 uucp tcp
543 klogin tcp
544 kshell tcp
546 dhcpv6-client udp
547 dhcpv6-server udp
548 afpovertcp tcp
554 rtsp tcp udp
563 nntps tcp
587 submission tcp
607 nqs tcp
623 asf-rmcp udp
628 qmqp tcp
631 ipp tcp
636 ldaps tcp udp
646 ldp tcp udp
655 tinc tcp udp
706 silc tcp
749 kerberos-adm tcp
750 kerberos4 udp tcp
751 kerberos-master udp tcp
752 passwd-server udp
754 krb-prop tcp
775 moira-db tcp
777 moira-update tcp
779 moira-ureg udp
783 spamd tcp
853 domain-s tcp udp
871 supfilesrv tcp
873 rsync tcp
989 ftps-data tcp
990 ftps tcp
992 telnets tcp
993 imaps tcp
995 pop3s tcp
1080 socks tcp
1093 proofd tcp
1094 rootd tcp
1099 rmiregistry tcp
1127 supfiledbg tcp
1178 skkserv tcp
1194 openvpn tcp udp
1210 predict udp
1236 rmtcfg tcp
1313 xtel tcp
1314 xtelw tcp
1352 lotusnote tcp
1433 ms-sql-s tcp
1434 ms-sql-m udp
1524 ingreslock tcp
1645 datametrics tcp udp
1646 sa-msg-port tcp udp
1649 kermit tcp
1677 groupwise tcp
1701 l2f udp
1812 radius tcp udp
1813 radius-acct tcp udp
2000 cisco-sccp tcp
2049 nfs tcp udp
2086 gnunet tcp udp
2101 rtcm-sc104 tcp udp
2102 zephyr-srv udp
2103 zephyr-clt udp
2104 zephyr-hm udp
2119 gsigatekeeper tcp
2121 iprop tcp
2135 gris tcp
2401 cvspserver tcp
2430 venus tcp udp
2431 venus-se tcp udp
2432 codasrv tcp udp
2433 codasrv-se tcp udp
2583 mon tcp udp
2600 zebrasrv tcp
2601 zebra tcp
2602 ripd tcp
2603 ripngd tcp
2604 ospfd tcp
2605 bgpd tcp
2606 ospf6d tcp
2607 ospfapi tcp
2608 isisd tcp
2628 dict tcp
2792 f5-globalsite tcp
2811 gsiftp tcp
2947 gpsd tcp
3050 gds-db tcp
3130 icpv2 udp
3205 isns tcp udp
3260 iscsi-target tcp
3306 mysql tcp
3389 ms-wbt-server tcp
3493 nut tcp udp
3632 distcc tcp
3689 daap tcp
3690 svn tcp
4031 suucp tcp
4094 sysrqd tcp
4190 sieve tcp
4353 f5-iquery tcp
4369 epmd tcp
4373 remctl tcp
4460 ntske tcp
4500 ipsec-nat-t udp
4557 fax tcp
4559 hylafax tcp
4569 iax udp
4691 mtn tcp
4899 radmin-port tcp
4949 munin tcp
5060 sip tcp udp
5061 sip-tls tcp udp
5222 xmpp-client tcp
5269 xmpp-server tcp
5308 cfengine tcp
5353 mdns udp
5432 postgresql tcp
5555 rplay udp
5556 freeciv tcp
5666 nrpe tcp
5667 nsca tcp
5671 amqps tcp
5672 amqp tcp sctp
5680 canna tcp
6000 x11 tcp
6001 x11-1 tcp
6002 x11-2 tcp
6003 x11-3 tcp
6004 x11-4 tcp
6005 x11-5 tcp
6006 x11-6 tcp
6007 x11-7 tcp
6346 gnutella-svc tcp udp
6347 gnutella-rtr tcp udp
6379 redis tcp
6444 sge-qmaster tcp
6445 sge-execd tcp
6446 mysql-proxy tcp
6514 syslog-tls tcp
6566 sane-port tcp
6667 ircd tcp
6696 babel udp
6697 ircs-u tcp
7000 afs3-fileserver udp
7000 bbs tcp
7001 afs3-callback udp
7002 afs3-prserver udp
7003 afs3-vlserver udp
7004 afs3-kaserver udp
7005 afs3-volser udp
7007 afs3-bos udp
7008 afs3-update udp
7009 afs3-rmtsys udp
7100 font-service tcp
8021 zope-ftp tcp
8080 http-alt tcp
8081 tproxy tcp
8088 omniorb tcp
8140 puppet tcp
8990 clc-build-daemon tcp
9098 xinetd tcp
9101 bacula-dir tcp
9102 bacula-fd tcp
9103 bacula-sd tcp
9418 git tcp
9667 xmms2 tcp
9673 zope tcp
10000 webmin tcp
10050 zabbix-agent tcp
10051 zabbix-trapper tcp
10080 amanda tcp
10081 kamanda tcp
10082 amandaidx tcp
10083 amidxtape tcp
10809 nbd tcp
11112 dicom tcp
11371 hkp tcp
17001 sgi-cmsd udp
17002 sgi-crsd udp
17003 sgi-gcd udp
17004 sgi-cad tcp
17500 db-lsp tcp
22125 dcap tcp
22128 gsidcap tcp
22273 wnn6 tcp
24554 binkp tcp
27374 asp tcp udp
30865 csync2 tcp
57000 dircproxy tcp
60177 tfido tcp
60179 fido tcp
"""
