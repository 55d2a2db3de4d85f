"""URLs under /teams/<slug>/: the members and their invitations."""

from django.urls import path

from keyportal.people.views import invitations, members

app_name = "people"
urlpatterns = [
    path("members/", members.member_list, name="members"),
    path("members/invite/", invitations.invite_people, name="invite"),
    path("members/leave/", members.member_leave, name="leave"),
    path("members/<int:user_id>/role/", members.member_role, name="role"),
    path("members/<int:user_id>/remove/", members.member_remove, name="remove"),
    path(
        "members/invitations/<int:invitation_id>/resend/",
        invitations.invitation_resend,
        name="resend",
    ),
    path(
        "members/invitations/<int:invitation_id>/revoke/",
        invitations.invitation_revoke,
        name="revoke",
    ),
]
