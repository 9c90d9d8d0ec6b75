"""The system registers by name, for MRS, MSR, MRRS and MSRR, with the direction of access.

Read on: system_operands.py reads and prints the names.

Source: Arm ARM D23.2 and D23.3 (the encoding tables); for registers of older issues and of Armv8-R, the older issues
and the manual of Armv8-R. Everything is computed at the first use of a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

Code = tuple[int, int, int, int, int]
"""op0, op1, CRn, CRm, op2 (Arm ARM C5.1.2)."""


class SystemRegister(NamedTuple):
    """One name. Two names share a code when they differ in direction, or when one is an old spelling."""

    name: str
    code: Code
    access: str
    """`rw`, `ro` (no MSR) or `wo` (no MRS); `128` is `rw` with 128 bits, for MRRS and MSRR too."""

    @property
    def readable(self) -> bool:
        """Whether MRS reads it."""
        return self.access != "wo"

    @property
    def writable(self) -> bool:
        """Whether MSR writes it."""
        return self.access != "ro"

    @property
    def is_wide(self) -> bool:
        """Whether MRRS and MSRR reach it."""
        return self.access == "128"


# op0 op1 CRn CRm, then op2=name; an access other than rw follows a colon.
_SINGLE = """
2 0 0 0    2=osdtrrx_el1
2 0 0 2    0=mdccint_el1 2=mdscr_el1
2 0 0 3    2=osdtrtx_el1
2 0 0 4    2=mdselr_el1
2 0 0 5    2=mdstepop_el1
2 0 0 6    2=oseccr_el1
2 0 1 0    0=mdrar_el1:ro 4=oslar_el1:wo
2 0 1 1    4=oslsr_el1:ro
2 0 1 3    4=osdlr_el1
2 0 1 4    4=dbgprcr_el1
2 0 7 8    6=dbgclaimset_el1
2 0 7 9    6=dbgclaimclr_el1
2 0 7 14   6=dbgauthstatus_el1:ro
2 0 9 13   0=spmcgcr0_el1:ro 1=spmcgcr1_el1:ro 3=spmaccessr_el1 4=spmiidr_el1:ro 5=spmdevarch_el1:ro
2 0 9 13   6=spmdevaff_el1:ro 7=spmcfgr_el1:ro
2 0 9 14   1=spmintenset_el1 2=spmintenclr_el1
2 0 14 11  7=pmccntsvr_el1:ro
2 0 14 12  0=pmicntsvr_el1:ro
2 1 0 0    1=trctraceidr 2=trcvictlr 6=trcidr8:ro
2 1 0 1    0=trcprgctlr 1=trcqctlr 2=trcviiectlr 6=trcidr9:ro
2 1 0 2    0=trcprocselr 1=trciteedcr 2=trcvissctlr 6=trcidr10:ro
2 1 0 3    0=trcstatr:ro 2=trcvipcssctlr 6=trcidr11:ro
2 1 0 4    0=trcconfigr 6=trcidr12:ro
2 1 0 5    6=trcidr13:ro
2 1 0 6    0=trcauxctlr 4=trcseqrstevr
2 1 0 7    4=trcseqstr
2 1 0 8    0=trceventctl0r 2=trcvdctlr
2 1 0 9    0=trceventctl1r 2=trcvdsacctlr
2 1 0 10   0=trcrsr 2=trcvdarcctlr
2 1 0 11   0=trcstallctlr
2 1 0 12   0=trctsctlr
2 1 0 13   0=trcsyncpr
2 1 0 14   0=trcccctlr
2 1 0 15   0=trcbbctlr
2 1 1 0    4=trcoslar:wo
2 1 1 1    4=trcoslsr:ro
2 1 1 4    4=trcpdcr
2 1 1 5    4=trcpdsr:ro
2 1 3 0    2=trccidcctlr0
2 1 3 1    2=trccidcctlr1
2 1 3 2    2=trcvmidcctlr0
2 1 3 3    2=trcvmidcctlr1
2 1 7 0    4=trcitctrl
2 1 7 2    7=trcdevid:ro
2 1 7 3    7=trcdevtype:ro
2 1 7 8    6=trcclaimset
2 1 7 9    6=trcclaimclr
2 1 7 10   6=trcdevaff0:ro
2 1 7 11   6=trcdevaff1:ro
2 1 7 12   6=trclar:wo
2 1 7 13   6=trclsr:ro
2 1 7 14   6=trcauthstatus:ro
2 1 7 15   6=trcdevarch:ro
2 1 9 0    0=brbcr_el1 1=brbfcr_el1 2=brbts_el1
2 1 9 1    0=brbinfinj_el1 1=brbsrcinj_el1 2=brbtgtinj_el1
2 1 9 2    0=brbidr0_el1:ro
2 2 0 0    0=teecr32_el1
2 2 1 0    0=teehbr32_el1
2 3 0 1    0=mdccsr_el0:ro
2 3 0 4    0=dbgdtr_el0
2 3 0 5    0=dbgdtrrx_el0:ro 0=dbgdtrtx_el0:wo
2 3 9 12   0=spmcr_el0 1=spmcntenset_el0 2=spmcntenclr_el0 3=spmovsclr_el0 4=spmzr_el0:wo 5=spmselr_el0
2 3 9 14   3=spmovsset_el0
2 4 0 7    0=dbgvcr32_el2
2 4 9 0    0=brbcr_el2
2 4 9 13   3=spmaccessr_el2
2 5 9 0    0=brbcr_el12
2 5 9 13   3=spmaccessr_el12
2 6 9 13   3=spmaccessr_el3
2 6 9 14   7=spmrootcr_el3
2 7 9 14   7=spmscr_el1

3 0 0 0    0=midr_el1:ro 4=mpuir_el1:ro 5=mpidr_el1:ro 6=revidr_el1:ro
3 0 0 1    0=id_pfr0_el1:ro 1=id_pfr1_el1:ro 2=id_dfr0_el1:ro 3=id_afr0_el1:ro
3 0 0 1    4=id_mmfr0_el1:ro 5=id_mmfr1_el1:ro 6=id_mmfr2_el1:ro 7=id_mmfr3_el1:ro
3 0 0 2    0=id_isar0_el1:ro 1=id_isar1_el1:ro 2=id_isar2_el1:ro 3=id_isar3_el1:ro
3 0 0 2    4=id_isar4_el1:ro 5=id_isar5_el1:ro 6=id_mmfr4_el1:ro 7=id_isar6_el1:ro
3 0 0 3    0=mvfr0_el1:ro 1=mvfr1_el1:ro 2=mvfr2_el1:ro 4=id_pfr2_el1:ro 5=id_dfr1_el1:ro 6=id_mmfr5_el1:ro
3 0 0 4    0=id_aa64pfr0_el1:ro 1=id_aa64pfr1_el1:ro 2=id_aa64pfr2_el1:ro 4=id_aa64zfr0_el1:ro
3 0 0 4    5=id_aa64smfr0_el1:ro 7=id_aa64fpfr0_el1:ro
3 0 0 5    0=id_aa64dfr0_el1:ro 1=id_aa64dfr1_el1:ro 2=id_aa64dfr2_el1:ro 4=id_aa64afr0_el1:ro 5=id_aa64afr1_el1:ro
3 0 0 6    0=id_aa64isar0_el1:ro 1=id_aa64isar1_el1:ro 2=id_aa64isar2_el1:ro 3=id_aa64isar3_el1:ro
3 0 0 7    0=id_aa64mmfr0_el1:ro 1=id_aa64mmfr1_el1:ro 2=id_aa64mmfr2_el1:ro 3=id_aa64mmfr3_el1:ro
3 0 0 7    4=id_aa64mmfr4_el1:ro
3 0 1 0    0=sctlr_el1 1=actlr_el1 2=cpacr_el1 3=sctlr2_el1 5=rgsr_el1 6=gcr_el1
3 0 1 2    0=zcr_el1 1=trfcr_el1 3=trcitecr_el1 4=smpri_el1 6=smcr_el1
3 0 1 4    0=sctlrmask_el1 1=actlrmask_el1 2=cpacrmask_el1 3=sctlr2mask_el1
3 0 1 4    4=cpacralias_el1 5=actlralias_el1 6=sctlralias_el1 7=sctlr2alias_el1
3 0 2 0    0=ttbr0_el1:128 1=ttbr1_el1:128 2=tcr_el1 3=tcr2_el1
3 0 2 1    0=apiakeylo_el1 1=apiakeyhi_el1 2=apibkeylo_el1 3=apibkeyhi_el1
3 0 2 2    0=apdakeylo_el1 1=apdakeyhi_el1 2=apdbkeylo_el1 3=apdbkeyhi_el1
3 0 2 3    0=apgakeylo_el1 1=apgakeyhi_el1
3 0 2 5    0=gcscr_el1 1=gcspr_el1 2=gcscre0_el1
3 0 2 7    2=tcrmask_el1 3=tcr2mask_el1 6=tcralias_el1 7=tcr2alias_el1
3 0 4 0    0=spsr_el1 1=elr_el1
3 0 4 1    0=sp_el0
3 0 4 2    0=spsel 2=currentel:ro 3=pan 4=uao
3 0 4 3    0=allint 1=pm
3 0 4 6    0=icc_pmr_el1
3 0 5 1    0=afsr0_el1 1=afsr1_el1
3 0 5 2    0=esr_el1
3 0 5 3    0=erridr_el1:ro 1=errselr_el1 2=erxgsr_el1:ro
3 0 5 4    0=erxfr_el1:ro 1=erxctlr_el1 2=erxstatus_el1 3=erxaddr_el1
3 0 5 4    4=erxpfgf_el1:ro 5=erxpfgctl_el1 6=erxpfgcdn_el1
3 0 5 5    0=erxmisc0_el1 1=erxmisc1_el1 2=erxmisc2_el1 3=erxmisc3_el1
3 0 5 6    0=tfsr_el1 1=tfsre0_el1
3 0 6 0    0=far_el1 5=pfar_el1
3 0 6 1    1=prenr_el1
3 0 6 2    1=prselr_el1
3 0 6 8    0=prbar_el1 1=prlar_el1
3 0 7 4    0=par_el1:128
3 0 9 9    0=pmscr_el1 1=pmsnevfr_el1 2=pmsicr_el1 3=pmsirr_el1
3 0 9 9    4=pmsfcr_el1 5=pmsevfr_el1 6=pmslatfr_el1 7=pmsidr_el1:ro
3 0 9 10   0=pmblimitr_el1 1=pmbptr_el1 3=pmbsr_el1 4=pmsdsfr_el1 5=pmbmar_el1 7=pmbidr_el1:ro
3 0 9 11   0=trblimitr_el1 1=trbptr_el1 2=trbbaser_el1 3=trbsr_el1
3 0 9 11   4=trbmar_el1 5=trbmpam_el1 6=trbtrg_el1 7=trbidr_el1:ro
3 0 9 13   3=pmsscr_el1
3 0 9 14   1=pmintenset_el1 2=pmintenclr_el1 4=pmuacr_el1 5=pmecr_el1 6=pmmir_el1:ro 7=pmiar_el1
3 0 10 2   0=mair_el1 1=mair2_el1 2=pire0_el1 3=pir_el1 4=por_el1 5=s2por_el1
3 0 10 3   0=amair_el1 1=amair2_el1
3 0 10 4   0=lorsa_el1 1=lorea_el1 2=lorn_el1 3=lorc_el1 4=mpamidr_el1:ro 5=mpambwidr_el1:ro 7=lorid_el1:ro
3 0 10 5   0=mpam1_el1 1=mpam0_el1 3=mpamsm_el1 4=mpambw1_el1 5=mpambw0_el1 7=mpambwsm_el1
3 0 12 0   0=vbar_el1 1=rvbar_el1:ro 2=rmr_el1
3 0 12 1   0=isr_el1:ro 1=disr_el1
3 0 12 8   0=icc_iar0_el1:ro 1=icc_eoir0_el1:wo 2=icc_hppir0_el1:ro 3=icc_bpr0_el1
3 0 12 8   4=icc_ap0r0_el1 5=icc_ap0r1_el1 6=icc_ap0r2_el1 7=icc_ap0r3_el1
3 0 12 9   0=icc_ap1r0_el1 1=icc_ap1r1_el1 2=icc_ap1r2_el1 3=icc_ap1r3_el1 5=icc_nmiar1_el1:ro
3 0 12 11  1=icc_dir_el1:wo 3=icc_rpr_el1:ro 5=icc_sgi1r_el1:wo 6=icc_asgi1r_el1:wo 7=icc_sgi0r_el1:wo
3 0 12 12  0=icc_iar1_el1:ro 1=icc_eoir1_el1:wo 2=icc_hppir1_el1:ro 3=icc_bpr1_el1
3 0 12 12  4=icc_ctlr_el1 5=icc_sre_el1 6=icc_igrpen0_el1 7=icc_igrpen1_el1
3 0 13 0   1=contextidr_el1 3=rcwsmask_el1:128 4=tpidr_el1 5=accdata_el1 6=rcwmask_el1:128 7=scxtnum_el1
3 0 14 1   0=cntkctl_el1

3 1 0 0    0=ccsidr_el1:ro 1=clidr_el1:ro 2=ccsidr2_el1:ro 4=gmid_el1:ro 6=smidr_el1:ro 7=aidr_el1:ro

3 2 0 0    0=csselr_el1

3 3 0 0    1=ctr_el0:ro 7=dczid_el0:ro
3 3 2 4    0=rndr:ro 1=rndrrs:ro
3 3 2 5    1=gcspr_el0
3 3 4 2    0=nzcv 1=daif 2=svcr 5=dit 6=ssbs 7=tco
3 3 4 4    0=fpcr 1=fpsr 2=fpmr
3 3 4 5    0=dspsr_el0 1=dlr_el0
3 3 9 4    0=pmicntr_el0
3 3 9 6    0=pmicfiltr_el0
3 3 9 12   0=pmcr_el0 1=pmcntenset_el0 2=pmcntenclr_el0 3=pmovsclr_el0
3 3 9 12   4=pmswinc_el0:wo 5=pmselr_el0 6=pmceid0_el0:ro 7=pmceid1_el0:ro
3 3 9 13   0=pmccntr_el0 1=pmxevtyper_el0 2=pmxevcntr_el0 4=pmzr_el0:wo
3 3 9 14   0=pmuserenr_el0 3=pmovsset_el0
3 3 10 2   4=por_el0
3 3 13 0   2=tpidr_el0 3=tpidrro_el0 5=tpidr2_el0 7=scxtnum_el0
3 3 13 2   0=amcr_el0 1=amcfgr_el0:ro 2=amcgcr_el0:ro 3=amuserenr_el0
3 3 13 2   4=amcntenclr0_el0 5=amcntenset0_el0 6=amcg1idr_el0:ro
3 3 13 3   0=amcntenclr1_el0 1=amcntenset1_el0
3 3 14 0   0=cntfrq_el0 1=cntpct_el0:ro 2=cntvct_el0:ro 5=cntpctss_el0:ro 6=cntvctss_el0:ro
3 3 14 2   0=cntp_tval_el0 1=cntp_ctl_el0 2=cntp_cval_el0
3 3 14 3   0=cntv_tval_el0 1=cntv_ctl_el0 2=cntv_cval_el0
3 3 14 15  7=pmccfiltr_el0

3 4 0 0    0=vpidr_el2 4=mpuir_el2:ro 5=vmpidr_el2
3 4 1 0    0=sctlr_el2 1=actlr_el2 3=sctlr2_el2
3 4 1 1    0=hcr_el2 1=mdcr_el2 2=cptr_el2 3=hstr_el2 4=hfgrtr_el2 5=hfgwtr_el2 6=hfgitr_el2 7=hacr_el2
3 4 1 2    0=zcr_el2 1=trfcr_el2 2=hcrx_el2 3=trcitecr_el2 5=smprimap_el2 6=smcr_el2
3 4 1 3    1=sder32_el2
3 4 1 4    0=sctlrmask_el2 1=actlrmask_el2 2=cptrmask_el2 3=sctlr2mask_el2
3 4 2 0    0=ttbr0_el2:128 1=ttbr1_el2:128 2=tcr_el2 3=tcr2_el2
3 4 2 1    0=vttbr_el2:128 2=vtcr_el2
3 4 2 2    0=vncr_el2
3 4 2 3    2=hdbssbr_el2 3=hdbssprod_el2 4=hacdbsbr_el2 5=hacdbscons_el2
3 4 2 5    0=gcscr_el2 1=gcspr_el2
3 4 2 6    0=vsttbr_el2 2=vstcr_el2
3 4 2 7    2=tcrmask_el2 3=tcr2mask_el2
3 4 3 0    0=dacr32_el2
3 4 3 1    0=hdfgrtr2_el2 1=hdfgwtr2_el2 2=hfgrtr2_el2 3=hfgwtr2_el2
3 4 3 1    4=hdfgrtr_el2 5=hdfgwtr_el2 6=hafgrtr_el2 7=hfgitr2_el2
3 4 4 0    0=spsr_el2 1=elr_el2
3 4 4 1    0=sp_el1
3 4 4 3    0=spsr_irq 1=spsr_abt 2=spsr_und 3=spsr_fiq
3 4 5 0    1=ifsr32_el2
3 4 5 1    0=afsr0_el2 1=afsr1_el2
3 4 5 2    0=esr_el2 3=vsesr_el2
3 4 5 3    0=fpexc32_el2
3 4 5 6    0=tfsr_el2
3 4 6 0    0=far_el2 4=hpfar_el2 5=pfar_el2
3 4 6 1    1=prenr_el2
3 4 6 2    1=prselr_el2
3 4 6 8    0=prbar_el2 1=prlar_el2
3 4 9 9    0=pmscr_el2
3 4 9 10   3=pmbsr_el2
3 4 9 11   3=trbsr_el2
3 4 10 1   1=mair2_el2
3 4 10 2   0=mair_el2 2=pire0_el2 3=pir_el2 4=por_el2 5=s2pir_el2
3 4 10 3   0=amair_el2 1=amair2_el2
3 4 10 4   0=mpamhcr_el2 1=mpamvpmv_el2
3 4 10 5   0=mpam2_el2 4=mpambw2_el2 6=mpambwcap_el2
3 4 10 8   0=mecid_p0_el2 1=mecid_a0_el2 2=mecid_p1_el2 3=mecid_a1_el2 7=mecidr_el2:ro
3 4 10 9   0=vmecid_p_el2 1=vmecid_a_el2
3 4 12 0   0=vbar_el2 1=rvbar_el2:ro 2=rmr_el2
3 4 12 1   1=vdisr_el2
3 4 12 8   0=ich_ap0r0_el2 1=ich_ap0r1_el2 2=ich_ap0r2_el2 3=ich_ap0r3_el2
3 4 12 9   0=ich_ap1r0_el2 1=ich_ap1r1_el2 2=ich_ap1r2_el2 3=ich_ap1r3_el2 5=icc_sre_el2
3 4 12 11  0=ich_hcr_el2 1=ich_vtr_el2:ro 2=ich_misr_el2:ro 3=ich_eisr_el2:ro 5=ich_elrsr_el2:ro 7=ich_vmcr_el2
3 4 13 0   1=contextidr_el2 2=tpidr_el2 7=scxtnum_el2
3 4 14 0   3=cntvoff_el2 6=cntpoff_el2
3 4 14 1   0=cnthctl_el2
3 4 14 2   0=cnthp_tval_el2 1=cnthp_ctl_el2 2=cnthp_cval_el2
3 4 14 3   0=cnthv_tval_el2 1=cnthv_ctl_el2 2=cnthv_cval_el2
3 4 14 4   0=cnthvs_tval_el2 1=cnthvs_ctl_el2 2=cnthvs_cval_el2
3 4 14 5   0=cnthps_tval_el2 1=cnthps_ctl_el2 2=cnthps_cval_el2

3 5 1 0    0=sctlr_el12 1=actlr_el12 2=cpacr_el12 3=sctlr2_el12
3 5 1 2    0=zcr_el12 1=trfcr_el12 3=trcitecr_el12 6=smcr_el12
3 5 1 4    0=sctlrmask_el12 1=actlrmask_el12 2=cpacrmask_el12 3=sctlr2mask_el12
3 5 2 0    0=ttbr0_el12:128 1=ttbr1_el12:128 2=tcr_el12 3=tcr2_el12
3 5 2 5    0=gcscr_el12 1=gcspr_el12
3 5 2 7    2=tcrmask_el12 3=tcr2mask_el12
3 5 4 0    0=spsr_el12 1=elr_el12
3 5 5 1    0=afsr0_el12 1=afsr1_el12
3 5 5 2    0=esr_el12
3 5 5 6    0=tfsr_el12
3 5 6 0    0=far_el12 5=pfar_el12
3 5 9 9    0=pmscr_el12
3 5 9 10   3=pmbsr_el12
3 5 9 11   3=trbsr_el12
3 5 10 2   0=mair_el12 1=mair2_el12 2=pire0_el12 3=pir_el12 4=por_el12
3 5 10 3   0=amair_el12 1=amair2_el12
3 5 10 5   0=mpam1_el12 4=mpambw1_el12
3 5 12 0   0=vbar_el12
3 5 13 0   1=contextidr_el12 7=scxtnum_el12
3 5 14 1   0=cntkctl_el12
3 5 14 2   0=cntp_tval_el02 1=cntp_ctl_el02 2=cntp_cval_el02
3 5 14 3   0=cntv_tval_el02 1=cntv_ctl_el02 2=cntv_cval_el02

3 6 1 0    0=sctlr_el3 1=actlr_el3 3=sctlr2_el3
3 6 1 1    0=scr_el3 1=sder32_el3 2=cptr_el3 5=fgwte3_el3
3 6 1 2    0=zcr_el3 6=smcr_el3
3 6 1 3    1=mdcr_el3
3 6 2 0    0=ttbr0_el3 2=tcr_el3
3 6 2 1    4=gptbr_el3 5=gpcbw_el3 6=gpccr_el3
3 6 2 5    0=gcscr_el3 1=gcspr_el3
3 6 4 0    0=spsr_el3 1=elr_el3
3 6 4 1    0=sp_el2
3 6 5 1    0=afsr0_el3 1=afsr1_el3
3 6 5 2    0=esr_el3 3=vsesr_el3
3 6 5 6    0=tfsr_el3
3 6 6 0    0=far_el3 5=mfar_el3
3 6 9 10   3=pmbsr_el3
3 6 9 11   3=trbsr_el3
3 6 10 1   1=mair2_el3
3 6 10 2   0=mair_el3 3=pir_el3 4=por_el3
3 6 10 3   0=amair_el3 1=amair2_el3
3 6 10 5   0=mpam3_el3 4=mpambw3_el3
3 6 10 10  1=mecid_rl_a_el3
3 6 12 0   0=vbar_el3 1=rvbar_el3:ro 2=rmr_el3
3 6 12 1   1=vdisr_el3
3 6 12 12  4=icc_ctlr_el3 5=icc_sre_el3 7=icc_igrpen1_el3
3 6 13 0   2=tpidr_el3 7=scxtnum_el3

3 7 14 2   0=cntps_tval_el1 1=cntps_ctl_el1 2=cntps_cval_el1
"""

# The name with {} for the number n, the access, the numbers, and the code of number n.
_NUMBERED: tuple[tuple[str, str, range, Callable[[int], Code]], ...] = (
    ("dbgbvr{}_el1", "rw", range(16), lambda n: (2, 0, 0, n, 4)),
    ("dbgbcr{}_el1", "rw", range(16), lambda n: (2, 0, 0, n, 5)),
    ("dbgwvr{}_el1", "rw", range(16), lambda n: (2, 0, 0, n, 6)),
    ("dbgwcr{}_el1", "rw", range(16), lambda n: (2, 0, 0, n, 7)),
    ("trcseqevr{}", "rw", range(3), lambda n: (2, 1, 0, n, 4)),
    ("trccntrldvr{}", "rw", range(4), lambda n: (2, 1, 0, n, 5)),
    ("trccntctlr{}", "rw", range(4), lambda n: (2, 1, 0, 4 + n, 5)),
    ("trccntvr{}", "rw", range(4), lambda n: (2, 1, 0, 8 + n, 5)),
    ("trcextinselr{}", "rw", range(4), lambda n: (2, 1, 0, 8 + n, 4)),
    ("trcimspec{}", "rw", range(8), lambda n: (2, 1, 0, n, 7)),
    ("trcidr{}", "ro", range(8), lambda n: (2, 1, 0, 8 + n, 7)),
    ("trcrsctlr{}", "rw", range(2, 32), lambda n: (2, 1, 1, n % 16, n // 16)),
    ("trcssccr{}", "rw", range(8), lambda n: (2, 1, 1, n, 2)),
    ("trcsscsr{}", "rw", range(8), lambda n: (2, 1, 1, 8 + n, 2)),
    ("trcsspcicr{}", "rw", range(8), lambda n: (2, 1, 1, n, 3)),
    ("trcacvr{}", "rw", range(16), lambda n: (2, 1, 2, n % 8 * 2, n // 8)),
    ("trcacatr{}", "rw", range(16), lambda n: (2, 1, 2, n % 8 * 2, 2 + n // 8)),
    ("trcdvcvr{}", "rw", range(8), lambda n: (2, 1, 2, n % 4 * 4, 4 + n // 4)),
    ("trcdvcmr{}", "rw", range(8), lambda n: (2, 1, 2, n % 4 * 4, 6 + n // 4)),
    ("trccidcvr{}", "rw", range(8), lambda n: (2, 1, 3, n * 2, 0)),
    ("trcvmidcvr{}", "rw", range(8), lambda n: (2, 1, 3, n * 2, 1)),
    ("trcpidr{}", "ro", range(4), lambda n: (2, 1, 7, 8 + n, 7)),
    ("trcpidr{}", "ro", range(4, 8), lambda n: (2, 1, 7, n, 7)),
    ("trccidr{}", "ro", range(4), lambda n: (2, 1, 7, 12 + n, 7)),
    ("brbinf{}_el1", "ro", range(32), lambda n: (2, 1, 8, n % 16, n // 16 * 4)),
    ("brbsrc{}_el1", "ro", range(32), lambda n: (2, 1, 8, n % 16, n // 16 * 4 + 1)),
    ("brbtgt{}_el1", "ro", range(32), lambda n: (2, 1, 8, n % 16, n // 16 * 4 + 2)),
    ("pmevcntsvr{}_el1", "ro", range(31), lambda n: (2, 0, 14, 8 + n // 8, n % 8)),
    ("spmevcntr{}_el0", "rw", range(16), lambda n: (2, 3, 14, n // 8, n % 8)),
    ("spmevtyper{}_el0", "rw", range(16), lambda n: (2, 3, 14, 2 + n // 8, n % 8)),
    ("spmevfiltr{}_el0", "rw", range(16), lambda n: (2, 3, 14, 4 + n // 8, n % 8)),
    ("spmevfilt2r{}_el0", "rw", range(16), lambda n: (2, 3, 14, 6 + n // 8, n % 8)),
    ("amevcntr0{}_el0", "rw", range(4), lambda n: (3, 3, 13, 4, n)),
    ("amevtyper0{}_el0", "ro", range(4), lambda n: (3, 3, 13, 6, n)),
    ("amevcntr1{}_el0", "rw", range(16), lambda n: (3, 3, 13, 12 + n // 8, n % 8)),
    ("amevtyper1{}_el0", "rw", range(16), lambda n: (3, 3, 13, 14 + n // 8, n % 8)),
    ("amevcntvoff0{}_el2", "rw", range(16), lambda n: (3, 4, 13, 8 + n // 8, n % 8)),
    ("amevcntvoff1{}_el2", "rw", range(16), lambda n: (3, 4, 13, 10 + n // 8, n % 8)),
    ("pmevcntr{}_el0", "rw", range(31), lambda n: (3, 3, 14, 8 + n // 8, n % 8)),
    ("pmevtyper{}_el0", "rw", range(31), lambda n: (3, 3, 14, 12 + n // 8, n % 8)),
    ("mpamvpm{}_el2", "rw", range(8), lambda n: (3, 4, 10, 6, n)),
    ("ich_lr{}_el2", "rw", range(16), lambda n: (3, 4, 12, 12 + n // 8, n % 8)),
    # Armv8-R
    ("prbar{}_el1", "rw", range(1, 16), lambda n: (3, 0, 6, 8 + n // 2, n % 2 * 4)),
    ("prlar{}_el1", "rw", range(1, 16), lambda n: (3, 0, 6, 8 + n // 2, n % 2 * 4 + 1)),
    ("prbar{}_el2", "rw", range(1, 16), lambda n: (3, 4, 6, 8 + n // 2, n % 2 * 4)),
    ("prlar{}_el2", "rw", range(1, 16), lambda n: (3, 4, 6, 8 + n // 2, n % 2 * 4 + 1)),
)

# Names that are read but never printed: old spellings, names of other profiles, registers of drafts (FEAT_CSRE,
# FEAT_ECV).
_ONLY_READ = """
2 0 8 0    0=csrcr_el1 1=csrptr_el1 3=csrptridx_el1:ro
2 1 0 8    4=trcextinselr
2 3 8 0    0=csrcr_el0 1=csrptr_el0 2=csridr_el0:ro 3=csrptridx_el0:ro
2 4 8 0    0=csrcr_el2 1=csrptr_el2 3=csrptridx_el2:ro
2 5 8 0    0=csrcr_el12 1=csrptr_el12
3 0 4 0    0=spsr_svc
3 4 2 0    0=vsctlr_el2
3 4 4 0    0=spsr_hyp
3 4 14 0   4=cntscale_el2 5=cntiscale_el2 7=cntvfrq_el2
"""


def _lines(text: str) -> Iterator[SystemRegister]:
    for line in filter(None, text.splitlines()):
        op0, op1, crn, crm, *registers = line.split()
        for register in registers:
            op2, _, rest = register.partition("=")
            name, _, access = rest.partition(":")
            yield SystemRegister(name, (int(op0), int(op1), int(crn), int(crm), int(op2)), access or "rw")


@cache
def system_registers() -> tuple[SystemRegister, ...]:
    """Every register with a printed name; each code once for each direction."""
    numbered = [
        SystemRegister(name.format(n), code(n), access) for name, access, numbers, code in _NUMBERED for n in numbers
    ]
    return (*_lines(_SINGLE), *numbered)


@cache
def codes() -> Mapping[str, SystemRegister]:
    """The registers by name in lower case, also by the names that are only read."""
    return {register.name: register for register in (*_lines(_ONLY_READ), *system_registers())}


@cache
def readable_names() -> Mapping[Code, str]:
    """The names for MRS, by code."""
    return {register.code: register.name for register in system_registers() if register.readable}


@cache
def writable_names() -> Mapping[Code, str]:
    """The names for MSR (register), by code."""
    return {register.code: register.name for register in system_registers() if register.writable}


@cache
def wide_names() -> Mapping[Code, str]:
    """The names for MRRS and MSRR, by code."""
    return {register.code: register.name for register in system_registers() if register.is_wide}
